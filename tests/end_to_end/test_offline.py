"""Nothing but `models pull` may reach a hub of models."""

import subprocess
import sys

import psutil
import pytest

from jobs.settings import Settings
from tests.end_to_end.processes import descendants, running, until

_SAYS = """
import os, sys
from console.cli import main
try:
    main()
except SystemExit:
    print(os.environ.get("HF_HUB_OFFLINE"))
"""


def test_a_worker_s_children_are_offline_whatever_the_environment_says(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with running(settings, "worker") as [worker]:
        child = until(lambda: next((one for one in descendants(worker) if _is_spawned(one)), None))
        assert child.environ()["HF_HUB_OFFLINE"] == child.environ()["HF_HUB_DISABLE_TELEMETRY"] == "1"


def _is_spawned(process: psutil.Process) -> bool:
    try:
        return any("spawn_main" in word for word in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.parametrize(("command", "value"), [("show", "1"), ("pull", "None")])
def test_commands_are_offline_but_for_pull(settings: Settings, command: str, value: str) -> None:
    environment = {name: text for name, text in settings.environment().items() if not name.startswith("HF_")}
    said = subprocess.run(
        [sys.executable, "-c", _SAYS, "models", command, "tiny-random"],
        env=environment | {"PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines()[-1] == value
