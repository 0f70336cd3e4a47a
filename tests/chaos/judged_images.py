"""What must be true of each image that can be seen or read: the safety checker has judged it.

Looks wherever an image may leave a batch: image rows and their files, files in quarantine, the feed and exports.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from jobs.batches import actions
from jobs.feed import feed
from jobs.feed.feed_query import FeedQuery
from jobs.states import EventKind
from jobs.storage.open import S3Options, open_store
from scheduler.export.export_request import ExportRequest
from scheduler.export.run_export import export
from tests.chaos.stub_safety_checker import UNSAFE
from tests.end_to_end.processes import truth
from tests.factories import look
from worker.imaging.encode import decode

CONCEPTS, SPECIAL_CARE = 17, 3


def check_judged(engine: Engine, name: str, folder: Path) -> None:
    """AssertionError lists the images of a batch that left unjudged, or otherwise than its safety policy wants.

    The batch must have ended, and `tests.chaos.invariant.check` have swept it. Exports it to `folder`.
    """
    wrong = [*_wrong_rows(engine, name), *_wrong_events(engine), *_wrong_quarantine(engine, name)]
    wrong += [
        f"row of {row['key']} in the export: {fault}"
        for row in _exported(engine, name, folder)
        if (fault := _fault(row["safety_scores"]))
    ]
    assert not wrong, f"{len(wrong)} things are wrong:\n" + "\n".join(wrong[:20])


def _fault(scores: Mapping[str, Any] | None) -> str | None:
    """What is wrong with the scores of an image, None if nothing is."""
    if not scores:
        return "no safety scores"
    counts = len(scores["concepts"]), len(scores["special_care"])
    if counts != (CONCEPTS, SPECIAL_CARE):
        return f"scores of {counts[0]} concepts and {counts[1]} of special care"
    is_finite = all(map(math.isfinite, [*scores["concepts"], *scores["special_care"]]))
    return None if is_finite else "scores that are not finite"


def _wrong_rows(engine: Engine, name: str) -> Iterator[str]:
    policy, store = _policy(engine, name), _store(engine, name)
    for row in truth(engine, name).images:
        if fault := _fault(row["safety_scores"]):
            yield f"image row of {row['key']}: {fault}"
        is_unsafe, verdict = UNSAFE in row["prompt"].split(), row["safety_verdict"]
        if verdict != ("blackened" if is_unsafe else "safe") or (is_unsafe and policy != "blacken"):
            yield f"{row['key']} of {row['prompt']!r} is {verdict} in a batch with safety={policy}"
        if is_unsafe and decode(store.get(row["key"])).any():
            yield f"{row['key']} of {row['prompt']!r} isn't black"


def _wrong_events(engine: Engine) -> Iterator[str]:
    """Of all batches of the database: every image and every block in the feed has its scores."""
    query = FeedQuery((EventKind.IMAGE, EventKind.BLOCKED))
    for page in feed.pages(engine, feed.Cursor(0, 0, 0), query):
        for event in map(json.loads, page.lines):
            is_image = event["event"] == EventKind.IMAGE
            if fault := _fault(event["safety_scores"] if is_image else event["detail"].get("scores")):
                yield f"event {event['event']} of job {event['job_id']}: {fault}"


def _wrong_quarantine(engine: Engine, name: str) -> Iterator[str]:
    """Files in quarantine are those of the blocked jobs of a batch that keeps them, and no other."""
    there = {item.key for item in _store(engine, name).list(f"{name}/quarantine/")}
    blocked = look(
        engine,
        "SELECT detail FROM events WHERE batch = :name AND kind = 'blocked'",
        name=name,
    )
    named = {key for event in blocked if (key := event["detail"].get("quarantined"))}
    yield from (f"{key} is in quarantine, and no blocked job names it" for key in sorted(there - named))
    yield from (f"{key} isn't in quarantine" for key in sorted(named - there))
    if _policy(engine, name) == "quarantine" and len(named) != len(blocked):
        yield f"{len(named)} of {len(blocked)} blocked jobs name a file in quarantine"


def _exported(engine: Engine, name: str, folder: Path) -> Iterator[dict[str, Any]]:
    order = ExportRequest([actions.status(engine, name)], "jsonl", open_store(str(folder), S3Options()))
    export(engine, order, lambda _: _store(engine, name))
    for part in sorted(folder.glob("part-*.jsonl")):
        yield from map(json.loads, part.read_text().splitlines())


def _policy(engine: Engine, name: str) -> str:
    (batch,) = look(engine, "SELECT policy FROM batches WHERE name = :name", name=name)
    return str(batch["policy"].get("safety", "block"))


def _store(engine: Engine, name: str) -> Any:
    (batch,) = look(engine, "SELECT output FROM batches WHERE name = :name", name=name)
    return open_store(batch["output"], S3Options())
