"""Users' own text is printed as they wrote it."""

import contextlib
import io
from collections.abc import Callable

import pytest
from rich.console import Console

from console import cli
from console.terminal import output, progress

THEIRS = "[a:b:0.5] :fox: [bold]hi[/bold] [red"


@pytest.mark.parametrize(
    "prints",
    [
        lambda: output.print_table(["prompt"], [[THEIRS]]),
        lambda: output.print_facts({"prompt": THEIRS}),
        lambda: output.note(THEIRS),
        lambda: cli._fail(THEIRS, 1),
    ],
    ids=["table", "facts", "note", "error"],
)
def test_text_is_neither_markup_nor_emoji(
    prints: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        prints()
    said = capsys.readouterr()
    assert THEIRS in said.out + said.err


def test_neither_beside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(progress, "err", Console(file=terminal, force_terminal=True, width=200, emoji=False))
    with progress.counting("reading", things=THEIRS) as tell:
        tell(1)
    assert THEIRS in terminal.getvalue()


def test_one_thing_is_one_thing() -> None:
    assert [output.plural(count, "job") for count in (0, 1, 2_000)] == ["0 jobs", "1 job", "2,000 jobs"]


def test_lines_of_tables_in_a_file_end_with_their_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["name", "prompt"], [["a", "a fox"], ["b", "a very long prompt"], ["c", ""]])
    assert capsys.readouterr().out == "name  prompt\na     a fox\nb     a very long prompt\nc\n"
