"""A real Prometheus with our configuration reads real schedulers and a worker, and answers every query that we ship."""

import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.command_line import Nightmill
from tests.end_to_end.processes import foxes, manifest, running, until
from tests.infra.monitoring.test_grafana import DASHBOARDS, dashboard
from tests.infra.monitoring.test_prometheus import FOLDER
from tests.infra.programs import program
from tests.scraping import free_address, get, listens

QUIET = "Trouble"
"""The panel that shows nothing while all goes well."""


class Prometheus:
    """A running server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, expression: str) -> list[Any]:
        """The result of an expression now."""
        page = get(self.address, f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        answer = json.loads(page.body)
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        result: list[Any] = answer["data"]["result"]
        return result

    def value(self, expression: str) -> float | None:
        """The only value of an expression."""
        found = self.ask(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None


@contextmanager
def prometheus(folder: Path, targets: dict[str, list[str]]) -> Iterator[Prometheus]:
    """Prometheus with infra/prometheus, its targets and its pace replaced."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    assert [job["job_name"] for job in config["scrape_configs"]] == list(targets)
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "rules.yaml")]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = free_address()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            until(lambda: listens(address) and get(address, "/-/ready").status == 200)
            yield Prometheus(address)
        finally:
            process.terminate()


def test_every_query_is_answered(settings: Settings, nightmill: Nightmill, tmp_path: Path) -> None:
    addresses = [free_address() for _ in range(3)]
    first, second, worker = (
        settings.model_copy(update={"metrics_address": address, "device": "cpu", "batch_size": 4})
        for address in addresses
    )
    for name, rows, option in (("waiting", 5, "--not-before"), ("night", 3000, "--deadline")):
        path = manifest(tmp_path, foxes(rows), f"{name}.jsonl")
        assert nightmill("submit", path, option, "2099-01-01 00:00 UTC").code == 0
    with (
        stubbed(tmp_path, step_s=0.02),
        running(first, "scheduler"),
        running(second, "scheduler"),
        running(worker, "worker"),
        prometheus(
            tmp_path, {"nightmill-scheduler": addresses[:2], "nightmill-worker": addresses[2:]}
        ) as server,
    ):
        until(lambda: server.value("sum(up)") == 3)
        with suppress(AssertionError):
            until(lambda: not unanswered(server), 30)
        assert unanswered(server) == []
        # Two schedulers tell it, and it is one number.
        left = 'sum(max by (namespace) (nightmill_batch_jobs{batch="waiting", state="queued"}))'
        assert server.value(left) == 5
        assert {rule["name"]: rule.get("lastError") for rule in rules(server) if rule["health"] != "ok"} == {}
        # A worker that is slow to start, or one scrape that took too long, makes a rule pending for a moment.
        until(lambda: all(rule["state"] == "inactive" for rule in rules(server)))


def rules(server: Prometheus) -> list[dict[str, Any]]:
    """The alerts as they are now."""
    found: list[dict[str, Any]] = json.loads(get(server.address, "/api/v1/rules").body)["data"]["groups"][0][
        "rules"
    ]
    return found


def unanswered(server: Prometheus) -> list[str]:
    """The panels and queries for which there is nothing yet."""
    return [
        f"{path.stem}: {panel['title']}: {target['expr']}"
        for path in DASHBOARDS
        for panel in dashboard(path)["panels"]
        for target in panel["targets"]
        if panel["title"] != QUIET and not server.ask(filled_in(target["expr"]))
    ]


def filled_in(expression: str) -> str:
    """The expression as Grafana sends it when all is chosen, for one of the batches."""
    for name, value in (
        ("$__rate_interval", "10s"),
        ("$namespace", ".*"),
        ("$instance", ".*"),
        ("$batch", "night"),
    ):
        expression = expression.replace(name, value)
    return expression
