"""`run` beside an `up`: whose workers do the work, and what it reports of them."""

import os
import signal
from itertools import chain, repeat
from pathlib import Path

import pytest

from console.commands import run as run_command
from console.process_control import background_up, run_batch_to_completion
from console.process_control.background_up import UpReport
from console.process_control.stop_by_signal import Stopped
from tests.console.conftest import Typed

HAS_WORKER = UpReport(workers=1, worker_pids=(os.getpid(),))


@pytest.mark.parametrize(
    ("report", "own"),
    [(None, 1), (UpReport(workers=0), 1), (HAS_WORKER, 0), (UpReport(workers=None), 0)],
    ids=["nothing is up", "no worker is up", "a worker is up", "an earlier version is up"],
)
def test_a_run_starts_a_worker_if_none_is_up(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, report: UpReport | None, own: int
) -> None:
    monkeypatch.setattr(background_up, "report", lambda _: report)
    assert run_batch_to_completion.starts_workers(typed.settings, None) is bool(own)
    assert run_batch_to_completion._default_workers(run_command.Session(typed.settings, None)) == own  # type: ignore[arg-type]


def test_a_run_whose_workers_are_taken_away_gives_up_and_tells_their_memory(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a scheduler of its own, and with this process in the place of the worker that is up."""
    (tmp_path / "foxes.txt").write_text("a fox\n")
    reports = chain(repeat(HAS_WORKER, 6), repeat(UpReport(workers=0)))
    monkeypatch.setattr(background_up, "report", lambda _: next(reports))
    brief = Typed(typed.settings.model_copy(update={"give_up_s": 0.1}), tmp_path)
    ended = brief("run", "foxes.txt", "--json")
    assert ended.code == 1
    assert ended.json["waiting"] == run_batch_to_completion.NO_WORKER_UP
    assert ended.json["peak_memory"]["parent"] > 1_000_000
    assert "the workers that are up do the work" in ended.err
    assert f"foxes: waiting: no worker can go on: {run_batch_to_completion.NO_WORKER_UP}" in ended.err


def test_a_run_that_is_interrupted_says_who_goes_on(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foxes.txt").write_text("a fox\n")
    monkeypatch.setattr(background_up, "report", lambda _: HAS_WORKER)

    def interrupted(*_: object, **__: object) -> None:
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(run_batch_to_completion, "_wait", interrupted)
    ended = typed("run", "foxes.txt")
    assert "the workers that are up go on with it; `nightmill pause foxes` holds it" in ended.err
    assert "goes back to the queue" not in ended.err
