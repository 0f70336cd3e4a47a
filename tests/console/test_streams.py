"""Output that is closed, full or of another encoding, characters that terminals obey, and errors nobody thought of."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from console.commands import recipe as recipe_command
from jobs.settings import Settings
from tests.conftest import Ended
from tests.console.conftest import Typed

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
        timeout=50,
    )
    return Ended(ended.returncode, ended.stdout.decode("latin-1"), ended.stderr.decode("latin-1"))


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "r.yaml").write_text("prompts:\n  template: füchse 狐狸 🦊\n", encoding="utf-8")
    return "r.yaml"


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams(settings: Settings, tmp_path: Path, closed: str) -> None:
    ended = shell(settings, tmp_path, f"NIGHTMILL --version {closed}")
    assert (ended.code, ended.err) == (0, "")


def test_a_full_disk_behind_standard_output(settings: Settings, tmp_path: Path) -> None:
    ended = shell(settings, tmp_path, "NIGHTMILL --version >/dev/full")
    assert (ended.code, ended.err) == (1, "error: No space left on device\n")


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
