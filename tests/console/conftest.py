"""Two rendered batches that the reading commands are tried on: one that went well, one that failed.

They are run in a folder that has a `models`, a `jobs` and a `worker` of its own, which must be left alone.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs.settings import Settings
from tests.conftest import Ended, Nightmill, new_database

NIGHT = [
    {"id": "n0", "prompt": "a red fox", "steps": 2, "label": "fox"},
    {"id": "n1", "prompt": "[bold]füchse[/bold], 狐狸\nat night", "steps": 2, "label": "foxes"},
    {"id": "n2", "prompt": "a blue bird", "steps": 2, "width": 96, "num_images": 2, "label": "bird"},
    {"id": "n3", "prompt": "a naked man"},
    {"id": "n4", "prompt": "too narrow " * 30, "width": 63},
    {"id": "n5", "prompt": "misspelt", "num_imagse": 2},
]
ABSENT = """
id = "absent"
title = "Absent"
family = "text2image"
summary = "A model whose files are not here."
license = "CC0"
limits = "All."
source = "absent"
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
safety_checker = "tiny-random-safety"
"""


@dataclass(frozen=True)
class Lab:
    """The command line, the folder that it runs in, and how the two runs ended."""

    nightmill: Nightmill
    folder: Path
    night: Ended
    day: Ended

    @property
    def output(self) -> Path:
        """Where the batches lie."""
        return self.folder / "output"


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write a JSONL manifest."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def lab(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The batches `night`, of whose jobs one is blocked, and `day`, whose model is missing."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "models" / "cards").mkdir(parents=True)
    (folder / "models" / "cards" / "absent.toml").write_text(ABSENT)
    for own in ("jobs", "worker"):
        (folder / own).mkdir()
        (folder / own / "__init__.py").write_text("raise SystemExit('this is not nightmill')")
    write_lines(folder / "night.jsonl", NIGHT)
    (folder / "day.txt").write_text("one fox\nanother fox\n")
    with new_database(servers) as database:
        settings = servers.model_copy(
            update={
                "data_dir": folder / "data",
                "database_url": SecretStr(database),
                "output": str(folder / "output"),
                "models_dir": folder / "models",
                "queue": f"q-{secrets.token_hex(4)}",
                "lease_s": 3,
                "tick_s": 0.1,
                "retry_delay_s": 0.1,
            }
        )
        nightmill = Nightmill(settings, folder)
        night = nightmill("run", "night.jsonl")
        day = nightmill("run", "day.txt", "--model", "absent", "--set", "max_attempts=2", "--json")
        yield Lab(nightmill, folder, night, day)
