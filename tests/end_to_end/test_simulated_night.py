"""A whole night as an operator sees it, which is the transcript in docs/night.md: a canary's stop, a death, a drain."""

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.db.engine import connect
from jobs.settings import Settings
from jobs.states import ErrorKind
from tests.end_to_end.typed_night_on_simulated_workers import SimulatedNight, at
from tests.factories import lane_differences
from tests.paths import ROOT

PAGE = ROOT / "docs" / "night.md"
BEGIN, END = "```text\n", "\n```"


@pytest.fixture
def night(
    database: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimulatedNight]:
    """A night in UTC on an engine that nobody else uses."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    engine: Engine = connect(database)
    yield SimulatedNight(engine, settings, tmp_path)
    engine.dispose()
    monkeypatch.undo()
    time.tzset()


def plan(night: SimulatedNight) -> None:
    """What people type and what happens to machines, at which times."""
    window = '--window "22:00-06:30 UTC"'
    faces = f'--set tenant=ada {window} --deadline "2026-11-28 03:00 UTC"'
    rooms, posters = f"--set tenant=bob {window}", f"--set tenant=eve --canary 16 {window}"
    for clock, event in (
        ("18:05", partial(night.submit, "faces", 400, faces, 60.0)),
        ("18:40", partial(night.submit, "rooms", 300, rooms, 60.0, ErrorKind.BAD_INPUT)),
        ("19:10", partial(night.submit, "posters", 200, posters, 30.0, ErrorKind.SAFETY)),
        ("21:50", partial(night.start_worker, "gpu-a:101")),
        ("21:51", partial(night.start_worker, "gpu-b:102")),
        ("21:52", partial(night.start_worker, "gpu-c:103")),
        ("22:30", partial(night.type, "status")),
        ("23:41", partial(night.kill_worker, "gpu-b:102")),
        ("00:30", partial(night.type, 'workers drain gpu-c --reason "a fan is loud"')),
        ("00:45", partial(night.type, "workers")),
        ("02:01", partial(night.type, "workers undrain gpu-c")),
        ("07:01", partial(night.type, "report --since 18:00")),
        ("07:02", partial(night.type, "wait faces rooms posters")),
        ("07:03", partial(night.type, "failures --since 18:00 --limit 2")),
    ):
        night.timeline.at(at(clock), event)
    night.timeline.after(0, night.tick)


def test_the_transcript_in_the_documentation_is_of_this_night(night: SimulatedNight) -> None:
    """UPDATE_DOCS=1 writes it there."""
    plan(night)
    night.timeline.run_until(at("07:05"))
    transcript, page = "\n".join(night.transcript), PAGE.read_text(encoding="utf-8")
    begin = page.index(BEGIN) + len(BEGIN)
    end = page.index(END, begin)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page[:begin] + transcript + page[end:], encoding="utf-8")
    else:
        assert page[begin:end] == transcript
    assert lane_differences(night.engine) == []
