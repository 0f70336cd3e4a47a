"""The command line with a models folder and a hub of its own, and cards of models that the hub has."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from jobs.settings import load_settings
from tests.command_line import Ended
from tests.hub import Hub

CARD = """
id = "lab"
title = "Lab"
family = "text2image"
aliases = ["old/gone"]
summary = "A test."
license = "CC0"
limits = "All."
source = "lab"
modes = ["text2image"]
width = 64
height = 64
size_multiple = 8
min_size = 64
max_size = 256
vae_factor = 8
sampler = "ddim"
samplers = ["ddim"]
steps = 2
guidance_scale = 5.0
withdrawn = ["old/gone"]
"""
CHECKER = """
id = "lab-safety"
title = "Lab"
family = "safety-checker"
summary = "A test."
license = "CC0"
limits = "All."
source = "lab-safety"
"""


@dataclass
class Shop:
    """The command line with a models folder and a hub of its own."""

    folder: Path
    hub: Hub

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def __call__(self, *arguments: str, **environment: str) -> Ended:
        process = subprocess.run(
            self._command(arguments),
            env=self._env(environment),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        return Ended(process.returncode, process.stdout, process.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self._command(arguments), env=self._env({}), text=True)

    def card(self, text: str, *rows: str, name: str = "lab") -> None:
        (self.models / "cards").mkdir(parents=True, exist_ok=True)
        (self.models / "cards" / f"{name}.toml").write_text(text + "\n".join(rows) + "\n")

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "console.cli", "models", *arguments]

    def _env(self, extra: dict[str, str]) -> dict[str, str]:
        settings = load_settings(data_dir=self.folder / "data", models_dir=self.models)
        hub = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "hf"), "PYTHONSAFEPATH": ""}
        return settings.environment() | hub | extra
