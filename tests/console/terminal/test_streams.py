"""Output that is closed, full or of another encoding, characters that terminals obey, and errors nobody thought of."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from console.commands import recipe as recipe_command
from jobs.outputs.mount_marker import open_output
from jobs.settings import Settings
from jobs.storage.base import S3Options
from tests.command_line import Ended
from tests.console.conftest import Typed
from tests.factories import make_batch
from tests.ownership import render

ESC = "\x1b[31m"


def shell(settings: Settings, folder: Path, command: str, **environment: str) -> Ended:
    """A command line of the shell's, in which NIGHTMILL stands for the program."""
    line = command.replace("NIGHTMILL", f"{sys.executable} -m console.cli")
    ended = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=folder,
        env=settings.environment() | environment,
        capture_output=True,
        check=False,
        timeout=150,
    )
    return Ended(ended.returncode, ended.stdout.decode("latin-1"), ended.stderr.decode("latin-1"))


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "r.yaml").write_text("prompts:\n  template: füchse 狐狸 🦊\n", encoding="utf-8")
    return "r.yaml"


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        ("--version >&-", 1, "error: standard output: it is closed\n"),
        ("--version >/dev/full", 1, "error: standard output: No space left on device\n"),
        ("--version 2>&-", 0, ""),
        ("down >&-", 0, "nothing was up\n"),
        ("frob 2>/dev/full", 2, ""),
        ("status a b 2>/dev/full", 2, ""),
        ("frob <&- >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_are_closed_or_full(
    settings: Settings, tmp_path: Path, command: str, code: int, err: str
) -> None:
    ended = shell(settings, tmp_path, f"NIGHTMILL {command}")
    assert (ended.code, ended.err) == (code, err)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["feed", "--follow"], 0), (["check", "night", "--json"], 1)]
)
def test_a_reader_that_has_gone_ends_output_and_not_the_command(
    settings: Settings, engine: Engine, arguments: list[str], code: int
) -> None:
    store = open_output(engine, settings.output, S3Options())
    made = render(engine, store, make_batch(engine, 2, name="night", output=settings.output))
    store.delete(made[0])
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "console.cli", *arguments],
        env=settings.environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=150,
    )
    os.close(writer)
    assert ended.returncode == code, ended.stderr
    assert b"error" not in ended.stderr
    assert (b"1 missing" in ended.stderr) == (code == 1)


@pytest.mark.parametrize("encoding", ["ascii"])
def test_what_an_encoding_lacks_is_written_as_json_does(
    settings: Settings, tmp_path: Path, recipe: str, encoding: str
) -> None:
    ended = shell(settings, tmp_path, f"NIGHTMILL recipe {recipe}", PYTHONIOENCODING=encoding)
    assert ended.code == 0, ended.err
    assert "\\u72d0\\u72f8 \\ud83e\\udd8a" in ended.out
    assert "füchse 狐狸 🦊" in json.dumps(json.loads(ended.out), ensure_ascii=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", f"{ESC}x"],
        ["run", f"{ESC}x.jsonl"],
        ["plan", f"{ESC}x"],
        [f"{ESC}x"],
        ["status", f"--{ESC}x"],
        ["run", "x.jsonl", "--set", f"{ESC}x=1"],
        ["retry", "x", "--only", ESC],
        ["models", "remove", f"{ESC}x"],
    ],
)
def test_own_arguments_are_shown_and_not_obeyed(typed: Typed, arguments: list[str]) -> None:
    ended = typed(*arguments)
    assert ended.code in (1, 2)
    assert "\x1b" not in ended.out + ended.err
    assert r"\x1b[31m" in "".join(ended.err.split())


def test_what_nobody_thought_of_is_one_line_and_a_log(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    def broken(*_: object) -> None:
        raise KeyError(f"{ESC}what is this? very-secret")

    typed.settings.data_dir.mkdir()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setattr(recipe_command, "print_line", broken)
    ended = typed("recipe", recipe)
    log = typed.settings.data_dir / "logs" / "errors.log"
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "this should not happen, KeyError" in ended.err
    assert str(log) in ended.err
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    for told in (ended.err, log.read_text()):
        assert "very-secret" not in told
    assert "\x1b" not in ended.err


def test_streams_that_others_have_put_in_place_stay() -> None:
    """One that is replaced would close its file when it is dropped."""
    code = """
import gc, io, os, sys
sys.stdout = io.TextIOWrapper(open(os.devnull, "wb"))
file = sys.stdout.buffer
from console.terminal.lenient_standard_streams import prepare_streams
prepare_streams()
gc.collect()
assert not file.closed
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=150)
