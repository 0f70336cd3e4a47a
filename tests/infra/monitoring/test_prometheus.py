"""Prometheus' configuration and alerts."""

import re

import yaml

from tests.infra import write_derived_files
from tests.infra.monitoring import promql
from tests.infra.programs import run
from tests.paths import ROOT

FOLDER = ROOT / "infra" / "prometheus"


def test_promtool_reads_configuration_and_rules() -> None:
    done = run("promtool", "check", "config", FOLDER / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_alerts_fire_when_they_should() -> None:
    done = run("promtool", "test", "rules", "rules_test.yaml", cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    rules = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text(encoding="utf-8"))["tests"]
    fired = {
        sample["labels"].split('"')[1]
        for one in tests
        for case in one.get("promql_expr_test", [])
        for sample in case["exp_samples"]
    }
    assert {rule["alert"] for rule in rules} == fired


def test_the_page_tells_every_alert() -> None:
    page = (ROOT / "docs" / "deployment" / "monitoring.md").read_text(encoding="utf-8")
    rules = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert re.findall(r"^\| `(Nightmill\w+)`", page, re.MULTILINE) == [rule["alert"] for rule in rules]


def test_the_chart_has_the_same_rules_and_dashboards() -> None:
    """After a change: `python -m tests.infra.write_derived_files`."""
    for source, copy in write_derived_files.COPIES.items():
        assert copy.read_bytes() == source.read_bytes(), copy
    copied = {path for path in write_derived_files.FILES.rglob("*") if path.is_file()}
    assert copied == set(write_derived_files.COPIES.values())


def test_alerts_ask_for_what_there_is() -> None:
    rules = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert len(rules) > 10
    assert {rule["alert"]: found for rule in rules if (found := promql.mistakes(rule["expr"]))} == {}
