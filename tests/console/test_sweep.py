"""`nightmill sweep`: what would go, what went, and what it refuses."""

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from tests.console.conftest import Typed
from tests.factories import change, make_batch, own_since

KEY = "images/000000/000000000-00000.0123456789ab.png"


@pytest.fixture
def lost(engine: Engine, tmp_path: Path) -> list[Path]:
    """Old objects of two cancelled batches, `a` and `b`, that no row names; both batches are days old."""
    found = []
    for name in "ab":
        batch = make_batch(engine, 1, name=name, output=str(tmp_path / "output"))
        actions.cancel(engine, batch.id)
        own_since(engine, batch, str(tmp_path / "output"), 3)
        path = tmp_path / "output" / name / KEY
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"lost")
        os.utime(path, (time.time() - 5400,) * 2)
        found.append(path)
    return found


def test_a_dry_run_tells_and_deletes_nothing(typed: Typed, lost: list[Path]) -> None:
    ended = typed("sweep", "a", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    (item,) = ended.json["objects"]
    assert (item["batch"], item["key"], item["bytes"]) == ("a", f"a/{KEY}", 4)
    assert (ended.json["dry_run"], ended.json["batches"], ended.json["bytes"]) == (True, ["a"], 4)
    assert all(path.exists() for path in lost)
    told = typed("sweep", "a", "--dry-run")
    assert told.out == f"{lost[0]}\t4 bytes\n"
    assert "1 unreferenced objects (4 B) would go" in told.err


def test_one_batch_then_all(typed: Typed, lost: list[Path]) -> None:
    assert len(typed("sweep", "a", "--json").json["objects"]) == 1
    assert [path.exists() for path in lost] == [False, True]
    ended = typed("sweep")
    assert ended.out == f"{lost[1]}\t4 bytes\n"
    assert "1 unreferenced objects (4 B) went" in ended.err
    assert not lost[1].exists()
    assert typed("sweep", "--json").json["objects"] == []


def test_a_batch_in_trouble_does_not_keep_the_others_waiting(
    typed: Typed, lost: list[Path], engine: Engine
) -> None:
    """Its output is no place at all, or belongs to others."""
    change(engine, "UPDATE batches SET output = 'gs://not/ours' WHERE name = 'a'")
    ended = typed("sweep", "--json")
    assert (ended.code, [path.exists() for path in lost]) == (1, [True, False])
    assert list(ended.json["troubles"]) == ["a"]
    assert "a isn't swept: 'gs://not/ours' is no place for objects" in ended.err


@pytest.mark.parametrize(("age", "is_left"), [("2h", True), ("1d", True), ("5500", True), ("80m", False)])
def test_what_is_younger_stays(typed: Typed, lost: list[Path], age: str, is_left: bool) -> None:
    assert typed("sweep", "a", "--older-than", age).code == 0
    assert lost[0].exists() == is_left


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("sweep c", "no batch 'c'"),
        (
            "sweep --older-than yesterday",
            "--older-than yesterday: write seconds, or a number with s, m, h or d",
        ),
        ("sweep --older-than 2", "--older-than 2: must be at least a lease, 3 s"),
    ],
)
def test_wrong_use(typed: Typed, lost: list[Path], arguments: str, words: str) -> None:
    ended = typed(*arguments.split())
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert all(path.exists() for path in lost)
