"""Two rendered batches that the reading commands are tried on: one that went well, one that failed.

They are run in a folder that has a `models`, a `jobs` and a `worker` of its own, which must be left alone.
"""

import io
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
from pydantic import SecretStr

from console.cli import main
from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.command_line import Ended, Nightmill
from tests.servers import DatabasePool

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


class Typed(Nightmill):
    """Runs `nightmill` in the test's own process: as main() has it, without the second that a new Python takes."""

    def __call__(
        self,
        *arguments: str,
        stdin: str | None = None,
        timeout: float = 50,  # noqa: ARG002 - nothing to kill here
    ) -> Ended:
        out, err, given = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO((stdin or "").encode()))
        with (
            patch.dict(os.environ, self.settings.environment(), clear=True),
            patch.multiple(sys, argv=["nightmill", *arguments], stdin=given),
            signals_kept(),
            chdir(self.folder),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@contextmanager
def signals_kept() -> Iterator[None]:
    """What is done about signals is the same after the block."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    hook = sys.unraisablehook
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@dataclass(frozen=True)
class Lab:
    """The command line, the folder that it runs in, and how the two runs ended."""

    nightmill: Nightmill
    folder: Path
    night: Ended
    day: Ended

    @property
    def typed(self) -> Typed:
        """The command line without a process for it."""
        return Typed(self.nightmill.settings, self.folder)

    @property
    def output(self) -> Path:
        """Where the batches lie."""
        return self.folder / "output"


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write a JSONL manifest."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@contextmanager
def bench(databases: DatabasePool, folder: Path) -> Iterator[Settings]:
    """Settings on a database of their own, for commands that are run in the folder; in it lie two manifests."""
    (folder / "models" / "cards").mkdir(parents=True)
    (folder / "models" / "cards" / "absent.toml").write_text(ABSENT)
    for own in ("jobs", "worker"):
        (folder / own).mkdir()
        (folder / own / "__init__.py").write_text("raise SystemExit('this is not nightmill')")
    write_lines(folder / "night.jsonl", NIGHT)
    (folder / "day.txt").write_text("one fox\nanother fox\n")
    with databases.new() as database:
        yield databases.servers.model_copy(
            update={
                "data_dir": folder / "data",
                "database_url": SecretStr(database),
                "output": str(folder / "output"),
                "models_dir": folder / "models",
                "queue": f"q-{secrets.token_hex(4)}",
                "lease_s": 3,
                "tick_s": 0.1,
                "retry_delay_s": 0.1,
                "give_up_s": 1,
            }
        )


@pytest.fixture(scope="module")
def lab(databases: DatabasePool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The batches `night`, of whose jobs one is blocked, and `day`, whose model is missing, as `run` left them."""
    folder = tmp_path_factory.mktemp("lab")
    with stubbed(tmp_path_factory.mktemp("renders")), bench(databases, folder) as settings:
        nightmill = Nightmill(settings, folder)
        night = nightmill("run", "night.jsonl")
        day = nightmill("run", "day.txt", "--model", "absent", "--set", "max_attempts=1", "--json")
        yield Lab(nightmill, folder, night, day)


@pytest.fixture(scope="module")
def shelf(databases: DatabasePool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """The command line where the batches `night` and `day` have been submitted."""
    folder = tmp_path_factory.mktemp("shelf")
    with bench(databases, folder) as settings:
        typed = Typed(settings, folder)
        assert typed("submit", "night.jsonl").code == 0
        assert typed("submit", "day.txt").code == 0
        yield typed


@pytest.fixture
def typed(settings: Settings, tmp_path: Path) -> Typed:
    """The command line on the test's own settings, in the test's own process."""
    return Typed(settings, tmp_path)
