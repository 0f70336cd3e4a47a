"""infra/compose/compose.yaml as `docker compose` reads it: variables filled in, the image's defaults below."""

import os
import re
import shlex
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tests.paths import ROOT

FOLDER = ROOT / "infra" / "compose"
FILE = FOLDER / "compose.yaml"
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")


@cache
def document() -> dict[str, Any]:
    """The whole file; a variable has its default unless the environment has it."""
    text = _VARIABLE.sub(_filled, FILE.read_text(encoding="utf-8"))
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def _filled(found: re.Match[str]) -> str:
    return os.environ.get(found["name"], found["default"] or "") if found["name"] else "$"


@dataclass(frozen=True)
class Service:
    """One service."""

    name: str
    given: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether it runs an image of nightmill's."""
        return str(self.given["image"]).startswith("nightmill-")

    @property
    def is_one_shot(self) -> bool:
        """Whether it ends by itself."""
        return self.given.get("restart", "no") in ("no", "on-failure")

    @property
    def command(self) -> list[str]:
        """Entry point and command."""
        entrypoint = self.given.get("entrypoint", ["nightmill"] if self.is_ours else [])
        return [*entrypoint, *self.given.get("command", [])]

    @property
    def environment(self) -> dict[str, str]:
        """The image's variables, and the service's over them."""
        return (image_environment() if self.is_ours else {}) | self.given.get("environment", {})

    @property
    def healthcheck(self) -> list[str] | None:
        """The command that says whether it is healthy; a shell's where it is written for one."""
        check = self.given.get("healthcheck")
        if check is None or check.get("disable"):
            return None
        kind, *words = check["test"]
        return ["sh", "-c", *words] if kind == "CMD-SHELL" else words

    @property
    def grace_s(self) -> float:
        """How long it has after SIGTERM."""
        return float(str(self.given.get("stop_grace_period", "10s")).removesuffix("s"))

    @property
    def needs(self) -> dict[str, str]:
        """The services that it waits for, and for what."""
        return {name: need["condition"] for name, need in self.given.get("depends_on", {}).items()}


def services() -> dict[str, Service]:
    """All of them by their names."""
    return {name: Service(name, given) for name, given in document()["services"].items()}


@cache
def image_environment() -> dict[str, str]:
    """The variables that the Dockerfile sets in both images."""
    text = (ROOT / "infra" / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    base = text.split("AS base\n")[1].split("\nFROM ")[0]
    line = next(line for line in base.splitlines() if line.startswith("ENV "))
    return dict(word.split("=", 1) for word in shlex.split(line)[1:])
