"""`nightmill` as a user runs it, and how it ended."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.settings import Settings


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class Nightmill:
    """Runs `nightmill` as a user would, with the test's settings in the environment."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 50) -> Ended:
        process = subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            cwd=self.folder,
            env=self.settings.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ended(process.returncode, process.stdout, process.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it running; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "console.cli", *arguments],
            cwd=self.folder,
            env=self.settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
