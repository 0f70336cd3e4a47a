"""The units in `infra/systemd`: read as systemd reads them, and run as it would, without a sandbox."""

import os
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests.chaos.stub import FOLDER, STEP_S
from tests.paths import ROOT

UNITS = ROOT / "infra" / "systemd"
COMMON = UNITS / "nightmill-.service.d" / "10-common.conf"
PROGRAM = "/opt/nightmill/bin/nightmill"

Options = dict[str, list[str]]


def services() -> list[str]:
    """The names of all services, the worker's as an instance for the first GPU."""
    return sorted(path.name.replace("@.", "@0.") for path in UNITS.glob("*.service"))


def options(unit: str) -> Options:
    """The options of a service, those of the common drop-in first; what is given several times has several values."""
    found: Options = defaultdict(list)
    name, kind = unit.rsplit(".", 1)
    template, at, _ = name.partition("@")
    for path in (COMMON, UNITS / f"{template}{at}.{kind}"):
        for line in path.read_text(encoding="utf-8").splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found[key].append(value)
    return found


def one(unit: str, key: str) -> str:
    """The value of an option that is given once."""
    (value,) = options(unit)[key]
    return value


class Host:
    """Starts services as processes. `etc` is /etc/nightmill, `state` is /var/lib; both lie in the folder of a test."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.state, self._run = folder / "etc", folder / "state", folder / "run"
        for path in (self.etc / "secrets", self.state / "nightmill"):
            path.mkdir(parents=True)

    def start(self, unit: str, **variables: str) -> subprocess.Popen[str]:
        """Start the service's command with the environment, credentials and folder that its unit names."""
        (command,) = options(unit)["ExecStart"]
        program, *arguments = shlex.split(command)
        assert program == PROGRAM
        return subprocess.Popen(
            [sys.executable, "-m", "console.cli", *arguments],
            env=self.environment(unit) | variables,
            cwd=self._expanded(unit, one(unit, "WorkingDirectory")),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, unit: str) -> str:
        """Run a service of Type=oneshot to its end and return what it printed."""
        process = self.start(unit)
        said, _ = process.communicate(timeout=150)
        assert process.returncode == 0, said
        return said

    def environment(self, unit: str) -> dict[str, str]:
        """The variables of the unit, which files of its overrule; and those by which tests draw with stubs."""
        found = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        found |= {name: os.environ[name] for name in ("PYTHONPATH", FOLDER, STEP_S) if name in os.environ}
        for assignment in options(unit)["Environment"]:
            name, _, value = self._expanded(unit, assignment).partition("=")
            found[name] = value
        for file in options(unit)["EnvironmentFile"]:
            path = Path(self._expanded(unit, file.removeprefix("-")))
            if file.startswith("-") and not path.exists():
                continue
            lines = path.read_text(encoding="utf-8").splitlines()
            found |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        return found

    def _expanded(self, unit: str, value: str) -> str:
        instance = unit.partition("@")[2].removesuffix(".service")
        for specifier, meaning in {"%i": instance, "%S": self.state, "%d": self._credentials(unit)}.items():
            value = value.replace(specifier, str(meaning))
        return value.replace("/etc/nightmill", str(self.etc))

    def _credentials(self, unit: str) -> Path:
        folder = self._run / unit
        folder.mkdir(parents=True, exist_ok=True)
        for given in options(unit)["LoadCredential"]:
            name, _, path = given.partition(":")
            shutil.copyfile(path.replace("/etc/nightmill", str(self.etc)), folder / name)
        return folder
