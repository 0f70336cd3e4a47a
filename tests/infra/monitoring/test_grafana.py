"""Grafana's dashboards: well-formed, and every query asks for what there is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.monitoring import promql
from tests.paths import ROOT

FOLDER = ROOT / "infra" / "grafana"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
each = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def dashboard(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def variables(found: dict[str, Any]) -> list[str]:
    return [variable["name"] for variable in found["templating"]["list"]]


def filled_in(expression: str, names: list[str]) -> str:
    """The expression with something in place of Grafana's variables."""
    text = expression.replace("$__rate_interval", "5m")
    for name in names:
        text = text.replace(f"${name}", "something")
    return text


def queries() -> list[Any]:
    return [
        pytest.param(panel, target, variables(found), id=f"{path.stem}-{panel['title']}-{target['refId']}")
        for path in DASHBOARDS
        for found in [dashboard(path)]
        for panel in found["panels"]
        for target in panel["targets"]
    ]


def test_there_are_three() -> None:
    found = [dashboard(path) for path in DASHBOARDS]
    assert [path.stem for path in DASHBOARDS] == ["batch", "night", "worker"]
    assert [one["uid"] for one in found] == [f"nightmill-{path.stem}" for path in DASHBOARDS]
    assert len(queries()) > 40


@pytest.mark.parametrize(("panel", "target", "names"), queries())
def test_queries_ask_for_what_there_is(panel: Any, target: Any, names: list[str]) -> None:
    text = filled_in(target["expr"], names)
    assert "$" not in text
    assert promql.mistakes(text) == []
    assert set(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))) <= promql.grouped_by(text)


@each
def test_panels_lie_side_by_side(path: Path) -> None:
    panels = dashboard(path)["panels"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


@each
def test_the_data_source_is_the_reader_s_choice(path: Path) -> None:
    found = dashboard(path)
    assert variables(found)[:2] == ["datasource", "namespace"]
    for panel in found["panels"]:
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each
def test_choices_are_read_from_metrics_that_there_are(path: Path) -> None:
    found = dashboard(path)
    for variable in found["templating"]["list"][1:]:
        query = filled_in(variable["query"]["query"], variables(found))
        choice = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert choice is not None
        assert promql.mistakes(f"max by ({choice[2]}) ({choice[1]})") == []


def test_grafana_is_told_where_they_are() -> None:
    source, provider = (
        yaml.safe_load((FOLDER / "provisioning" / path).read_text(encoding="utf-8"))
        for path in ("datasources/prometheus.yaml", "dashboards/nightmill.yaml")
    )
    assert source["datasources"][0]["type"] == "prometheus"
    assert provider["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards"


@pytest.mark.parametrize(
    ("expression", "mistake"),
    [
        ("sum(", "unclosed left parenthesis"),
        ("nightmill_job", "there is no metric nightmill_job"),
        ("rate(nightmill_stage_seconds[5m])", "there is no metric nightmill_stage_seconds"),
        ('nightmill_jobs{pool="x"}', "nightmill_jobs has no label pool"),
        ("sum by (batch) (nightmill_jobs)", "has no label batch"),
        (
            "sum by (state) (nightmill_jobs) unless on (pool) sum by (batch) (nightmill_wanted_workers)",
            "batch",
        ),
    ],
)
def test_mistakes_in_queries_are_found(expression: str, mistake: str) -> None:
    assert mistake in promql.mistakes(expression)[0]
