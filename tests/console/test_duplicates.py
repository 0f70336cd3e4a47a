"""`nightmill duplicates`: groups of images by their perceptual hashes, in one batch and across several."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.batches.evaluate_accept_condition import judge_all
from jobs.feed import feed
from jobs.queue import transitions
from scheduler.ingest.ingest import Ingested
from tests.console.conftest import Typed
from tests.factories import await_feed, image, lanes_of, look, make_batch, take

ALIKE = ["00000000000000ff", "f0f0f0f0f0f0f0f0", "000000000000000f", None, "f0f0f0f0f0f0f0f1"]


def rendered(engine: Engine, name: str, hashes: Sequence[str | None]) -> Ingested:
    batch = make_batch(engine, len(hashes), name=name)
    jobs = take(engine, lanes_of(engine, batch)[0])
    for job in jobs:
        transitions.complete(engine, [image(job, phash=hashes[job.ordinal])])
    return batch


@pytest.fixture
def night(engine: Engine) -> Ingested:
    return rendered(engine, "night", ALIKE)


@pytest.mark.usefixtures("night")
class TestDuplicates:
    def test_groups_name_their_images_the_first_one_first(self, typed: Typed) -> None:
        ended = typed("duplicates", "night", "--json")
        assert ended.code == 0
        told = {
            name: ended.json[name] for name in ("batches", "distance", "images", "without_hash", "duplicates")
        }
        assert told == {"batches": ["night"], "distance": 4, "images": 4, "without_hash": 1, "duplicates": 2}
        groups = [[(each["ordinal"], each["distance"]) for each in group] for group in ended.json["groups"]]
        assert groups == [[(0, 0), (2, 4)], [(1, 0), (4, 1)]]
        first = ended.json["groups"][0][0]
        assert (first["batch"], first["index"], first["phash"]) == ("night", 0, ALIKE[0])
        assert first["uri"].endswith(first["key"])

    def test_hashes_are_read_in_pages(self, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = typed("duplicates", "night", "--json").json
        monkeypatch.setattr("jobs.images.near_duplicates._PAGE", 2)
        assert typed("duplicates", "night", "--json").json == whole

    def test_a_smaller_distance_finds_fewer(self, typed: Typed) -> None:
        groups = typed("duplicates", "night", "--distance", "3", "--json").json["groups"]
        assert [[each["ordinal"] for each in group] for group in groups] == [[1, 4]]
        assert typed("duplicates", "night", "--distance", "0", "--json").json["groups"] == []

    def test_without_json_there_is_a_line_an_image(self, typed: Typed) -> None:
        ended = typed("duplicates", "night")
        lines = [line.split("\t")[:2] for line in ended.out.splitlines()]
        assert lines == [["0", "night"], ["4", "night"], [""], ["0", "night"], ["1", "night"], [""]]
        assert "4 images compared: 2 duplicates in 2 groups; 1 have no hash" in ended.err

    def test_across_batches_the_older_batch_has_the_original(self, typed: Typed, engine: Engine) -> None:
        rendered(engine, "day", ["f0f0f0f0f0f0f0f0"])
        (group,) = typed("duplicates", "day", "--across", "night", "--distance", "0", "--json").json["groups"]
        assert [(each["batch"], each["ordinal"]) for each in group] == [("night", 1), ("day", 0)]
        assert typed("duplicates", "day", "--json").json["groups"] == []

    @pytest.mark.parametrize("wrong", [["--distance", "11"], ["--distance", "-1"], ["--across", "nihgt"]])
    def test_wrong_use(self, typed: Typed, wrong: list[str]) -> None:
        ended = typed("duplicates", "night", *wrong)
        assert ended.code == 2
        assert "Traceback" not in ended.err

    def test_hashes_are_fed(self, engine: Engine) -> None:
        await_feed(engine)
        assert [row["phash"] for row in feed.read(engine)] == ALIKE


def test_a_batch_without_images(typed: Typed, engine: Engine) -> None:
    make_batch(engine, 1, name="empty")
    assert typed("duplicates", "empty", "--json").json["groups"] == []


def test_images_that_were_not_accepted_are_listed(typed: Typed, engine: Engine) -> None:
    batch = make_batch(engine, 2, name="twins", target=2, accept="not duplicate")
    jobs = take(engine, lanes_of(engine, batch)[0])
    transitions.complete(engine, [image(job, phash="0" * 16) for job in jobs])
    judge_all(engine, batch.id)
    (rejected,) = typed("targets", "twins", "--rejected", "--json").json
    assert (rejected["ordinal"], rejected["duplicate_of"]) == (1, 1)
    assert rejected["uri"] in typed("targets", "twins", "--rejected").out
    retracted = typed(
        "retract", "twins", "--where", "not accepted", "--reason", "twin", "--keep-files", "--json"
    )
    assert (retracted.code, retracted.json["retracted"]) == (0, 1)
    assert [row["ordinal"] for row in look(engine, "SELECT ordinal FROM images")] == [0]
    assert typed("targets", "twins", "--json").json == [
        {"value": "", "target": 2, "accepted": 1, "on_their_way": 0}
    ]


def test_a_condition_that_cannot_be_read_is_wrong_use(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a fox"}\n')
    for accept, said in (("not duplicat", "did you mean 'duplicate'?"), ("clip_score >", "expected a value")):
        options = ("--set", "target=2", "--set", f"accept={accept}", "--model", "tiny-random")
        ended = typed("submit", str(tmp_path / "rows.jsonl"), *options)
        assert (ended.code, said in ended.err) == (2, True)
        assert "--set accept" in ended.err
