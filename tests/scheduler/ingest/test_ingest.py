"""A manifest becomes a batch of queued jobs: once, wholly or not at all, and in little memory."""

import gzip
import hashlib
import json
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.errors import ManifestError, UsageError
from jobs.policy.parse_set_options import parse_policy
from scheduler.ingest.ingest import Ingested, ingest
from scheduler.ingest.submit_request import checked_name, slug
from tests.factories import (
    MODEL,
    change,
    counted_jobs,
    look,
    make_batch,
    order_for,
    states,
    submit,
    wait_for_lock,
)
from tests.jobs.manifest.helpers import rules
from tests.jobs.policy.test_batch_policy import FIRST

Rows = list[dict[str, Any]]

TABLES = ("batches", "lanes", "jobs", "rejects", "job_counts")


def write(path: Path, rows: Rows) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def take_in(engine: Engine, path: Path, **options: Any) -> Ingested:
    with order_for(path, **options) as order:
        return submit(engine, order)


def sizes(engine: Engine) -> dict[str, int]:
    """How many rows each table has."""
    return {table: look(engine, f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in TABLES}  # noqa: S608


@pytest.fixture
def foxes(tmp_path: Path) -> Path:
    return write(tmp_path / "foxes.jsonl", [{"prompt": f"fox {i}"} for i in range(3)] + [{"prompt": ""}])


def test_the_same_again_is_the_same_batch(engine: Engine, foxes: Path) -> None:
    first = take_in(engine, foxes)
    before = sizes(engine)
    again = take_in(engine, foxes)
    assert (first.is_new, again.is_new) == (True, False)
    assert (first.rows, first.rejected, first.jobs) == (again.rows, again.rejected, again.jobs) == (4, 1, 3)
    assert (first.id, first.name) == (again.id, again.name)
    assert sizes(engine) == before


def test_the_same_bytes_under_another_name_are_the_same_batch(engine: Engine, foxes: Path) -> None:
    copy = foxes.with_name("copy.jsonl")
    copy.write_bytes(foxes.read_bytes())
    assert take_in(engine, copy).id == take_in(engine, foxes).id


@pytest.mark.parametrize(
    "other",
    [
        {"columns": {"steps": "2"}},
        {"output": "s3://elsewhere"},
        {"quality": 80},
        {"batch_seed": 1},
        {"max_attempts": 1},
        {"name": "other"},
    ],
)
def test_other_settings_are_another_batch(engine: Engine, foxes: Path, other: Mapping[str, Any]) -> None:
    first, second = take_in(engine, foxes), take_in(engine, foxes, **other)
    assert second.is_new
    assert first.id != second.id
    assert second.name == other.get("name", f"foxes-{second.name[-8:]}")
    assert states(engine) == {"queued": 6}


def test_other_bytes_are_another_batch(engine: Engine, foxes: Path) -> None:
    first = take_in(engine, foxes)
    foxes.write_bytes(foxes.read_bytes() + b"\n")
    assert take_in(engine, foxes).id != first.id


def test_a_name_that_is_taken_is_refused_and_nothing_is_left(engine: Engine, foxes: Path) -> None:
    make_batch(engine, 1, name="taken")
    before = sizes(engine)
    with pytest.raises(UsageError, match="the name 'taken' belongs to a batch of another manifest"):
        take_in(engine, foxes, name="taken")
    assert sizes(engine) == before


@pytest.mark.parametrize(
    ("second", "outcome"),
    [({}, "known"), ({"max_attempts": 1}, "new"), ({"name": "foxes", "max_attempts": 1}, "refused")],
)
def test_two_that_submit_at_once(engine: Engine, foxes: Path, second: dict[str, Any], outcome: str) -> None:
    """The second comes while the first has written all and committed nothing."""
    arrived, go = Event(), Event()

    def pause(_: int) -> None:
        arrived.set()
        go.wait()

    with ThreadPoolExecutor(2) as threads, ExitStack() as opened:
        order = opened.enter_context(order_for(foxes))
        earlier = threads.submit(ingest, engine, order, rules(model=MODEL), pause)
        arrived.wait()
        later = threads.submit(take_in, engine, foxes, **second)
        wait_for_lock(engine)
        go.set()
        assert earlier.result().is_new
        if outcome == "refused":
            with pytest.raises(UsageError, match="the name 'foxes' belongs"):
                later.result()
        else:
            assert later.result().is_new == (outcome == "new")
            assert (later.result().id == earlier.result().id) == (outcome == "known")
    assert sizes(engine)["batches"] == 1 + (outcome == "new")
    assert states(engine) == counted_jobs(engine) == {"queued": 3 * sizes(engine)["batches"]}


def test_a_submit_goes_on_where_the_one_before_it_was_cut_off(engine: Engine, foxes: Path) -> None:
    arrived, go = Event(), Event()

    def die(_: int) -> None:
        arrived.set()
        go.wait()
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as threads, order_for(foxes) as order:
        earlier = threads.submit(ingest, engine, order, rules(model=MODEL), die)
        arrived.wait()
        later = threads.submit(take_in, engine, foxes)
        wait_for_lock(engine)
        go.set()
        assert isinstance(earlier.exception(), KeyboardInterrupt)
        assert later.result().is_new
    assert states(engine) == {"queued": 3}


def broken(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Manifests that fail after thousands of good rows, and whether strictly read."""
    rows: Rows = [{"prompt": f"fox {i}", "width": 64 + 8 * (i % 3)} for i in range(12_000)]
    whole = write(folder / "cut.jsonl.gz", rows).read_bytes()
    (folder / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    yield folder / "cut.jsonl.gz", False
    (folder / "rot.jsonl.gz").write_bytes(whole[:-3000] + b"\0" * 100 + whole[-2900:])
    yield folder / "rot.jsonl.gz", False
    yield write(folder / "strict.jsonl", [*rows, {"prompt": "x", "steps": 0}]), True


def test_what_breaks_in_the_middle_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    for path, strict in broken(tmp_path):
        with pytest.raises(ManifestError, match=path.name):
            take_in(engine, path, strict=strict)
        assert sizes(engine) == dict.fromkeys(TABLES, 0), path.name


def test_a_strict_submit_names_the_row_and_the_reason(engine: Engine, foxes: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        take_in(engine, foxes, strict=True)
    assert (
        str(caught.value)
        == f"{foxes}, line 4, column prompt: prompt is empty; nothing was ingested (--strict)"
    )


def test_rejected_rows_are_kept_with_place_and_reason(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("prompt,steps,label\nfox,4,a\n,4,b\nhen,many,c\n\u00fc,4,d\n", "utf-8")
    batch = take_in(engine, path)
    assert (batch.rows, batch.rejected, batch.jobs) == (4, 2, 2)
    rejects = look(engine, "SELECT * FROM rejects ORDER BY id")
    assert [(row["ordinal"], row["line"], row["column"]) for row in rejects] == [
        (1, 3, "prompt"),
        (2, 4, "steps"),
    ]
    assert "must be a whole number, not 'many'" in rejects[1]["reason"]
    assert "many" in rejects[1]["excerpt"]
    assert [row["ordinal"] for row in look(engine, "SELECT ordinal FROM jobs ORDER BY id")] == [0, 3]


def test_a_manifest_of_bad_rows_is_a_batch_without_jobs(engine: Engine, tmp_path: Path) -> None:
    batch = take_in(engine, write(tmp_path / "bad.jsonl", [{"prompt": ""}] * 3))
    assert (batch.rows, batch.rejected, batch.jobs) == (3, 3, 0)
    assert sizes(engine) == {"batches": 1, "lanes": 0, "jobs": 0, "rejects": 3, "job_counts": 0}


def test_lanes_are_what_can_share_a_device_batch(engine: Engine, tmp_path: Path) -> None:
    shapes: Rows = [
        {"model": "painter", "width": 512, "num_images": 3},
        {"model": "sd15", "steps": 9, "sampler": "euler"},
        {"model": "painter", "upscale": 4, "noise_level": 20},
        {"model": "painter", "upscale": 1},
        {"model": "painter", "height": 256},
        {"model": "sketcher"},
    ]
    batch = take_in(engine, write(tmp_path / "m.jsonl", [{"prompt": "a"} | shape for shape in shapes]))
    assert batch.rejected == 0
    lanes = look(
        engine,
        """SELECT model, width, height, upscale, sum(delta)::int AS n FROM lanes JOIN job_counts ON lane_id = lanes.id
        GROUP BY lanes.id ORDER BY lanes.id""",
    )
    assert [tuple(lane.values()) for lane in lanes] == [
        ("painter", 512, 512, 0, 5),
        ("painter", 512, 512, 4, 1),
        ("painter", 512, 256, 0, 1),
        ("sketcher", 64, 64, 0, 1),
    ]
    counted = look(engine, "SELECT lane_id, count(*) AS n FROM jobs GROUP BY 1 ORDER BY 1")
    assert [row["n"] for row in counted] == [5, 1, 1, 1]


def test_seeds_are_fixed_by_the_manifest(engine: Engine, tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a", "seed": 2**64 - 1, "num_images": 2}] + [
        {"prompt": "b", "num_images": 50}
    ] * 40
    path = write(tmp_path / "m.jsonl", rows)
    batches = [take_in(engine, path, name=f"b{i}", batch_seed=seed) for i, seed in enumerate((7, 7, 8))]
    seeds = [
        [
            int(row["seed"])
            for row in look(engine, "SELECT seed FROM jobs WHERE batch_id = :id ORDER BY id", id=batch.id)
        ]
        for batch in batches
    ]
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[0][:2] == [2**64 - 1, 0]
    assert len(set(seeds[0])) == 2002, "no two pictures of a batch are the same"


def test_other_columns_travel_as_they_are(engine: Engine, tmp_path: Path) -> None:
    meta = {
        "class": 7,
        "Überschrift": "naïve ☃ 🦊 \u2028",
        "box": {"xyxy": [0.5, -1, 1e3, None, True], "deep": {"er": {}}},
        "big": 2**70,
        "quote'\"\\": "tab\tline\nreturn\r\\N",
        "empty": "",
        "none": None,
    }
    rows: Rows = [{"prompt": "a"} | meta, {"prompt": "b", "nul": "\0"}, {"prompt": "c", "half": "\ud800"}]
    batch = take_in(engine, write(tmp_path / "m.jsonl", rows))
    assert look(engine, "SELECT meta FROM jobs") == [{"meta": meta}]
    assert batch.rejected == 2
    assert [row["column"] for row in look(engine, 'SELECT "column" FROM rejects ORDER BY id')] == [
        "nul",
        "half",
    ]


def test_other_columns_keep_their_order_and_the_form_of_their_numbers(engine: Engine) -> None:
    make_batch(engine, [{"zebra": 1, "prompt": "a", "ape": 1e300, "half": 0.50}])
    (row,) = look(engine, "SELECT meta::text AS meta FROM jobs")
    assert list(json.loads(row["meta"]).items()) == [("zebra", 1), ("ape", 1e300), ("half", 0.5)]
    assert isinstance(json.loads(row["meta"])["ape"], float)


def test_a_batch_remembers_what_was_given(engine: Engine, foxes: Path) -> None:
    take_in(engine, foxes, columns={"steps": "3"}, output="s3://b/p", safety="flag", priority=4, batch_seed=9)
    (row,) = look(engine, "SELECT * FROM batches")
    assert (row["manifest"], row["output"], row["priority"]) == (str(foxes), "s3://b/p", 4)
    assert (row["policy"], row["rows"], row["jobs"]) == ({"safety": "flag", "batch_seed": 9}, 4, 3)
    assert row["settings"] == {
        "columns": {"steps": "3"},
        "renames": {},
        "strict": False,
        "drop": [],
        "unique_ids": False,
        "chosen": ["seed_from"],
        "default_model": "sketcher",
    }
    assert {job["steps"] for job in look(engine, "SELECT steps FROM jobs")} == {3}


def peak_mb(engine: Engine, path: Path) -> float:
    first = write(
        path.with_name("first.jsonl"), [{"prompt": "what a first reading imports is no part of it"}]
    )
    take_in(engine, first)
    tracemalloc.start()
    try:
        take_in(engine, path)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(engine: Engine, tmp_path: Path) -> None:
    short = write(tmp_path / "short.jsonl", [{"prompt": f"fox number {i}", "label": i} for i in range(2_000)])
    long = write(tmp_path / "long.jsonl", [{"prompt": f"fox number {i}", "label": i} for i in range(20_000)])
    assert abs(peak_mb(engine, long) - peak_mb(engine, short)) < 3  # all rows at once would take 20
    assert states(engine) == {"queued": 22_001}


def test_memory_does_not_grow_with_the_images_of_a_row(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"prompt": "a long prompt " * 70, "num_images": 40_000}])
    assert peak_mb(engine, path) < 20  # it takes 11; the text of all jobs at once is 40
    (row,) = look(
        engine,
        "SELECT count(*) AS n, min(index) AS low, max(index) AS high FROM jobs WHERE prompt LIKE 'a long%'",
    )
    assert tuple(row.values()) == (40_000, 0, 39_999)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("PartiPrompts", "partiprompts"),
        ("My prompts (final).v2", "my-prompts-final-.v2"),
        ("../../etc/passwd", "etc-passwd"),
        ("Füchse", "f-chse"),
        ("狐", "batch"),
        ("2026", "batch-2026"),
        ("(7)", "batch-7"),
        ("2026-11", "2026-11"),
        ("", "batch"),
        ("---", "batch"),
        ("x" * 300, "x" * 90),
    ],
)
def test_a_files_name_becomes_one_that_a_batch_may_have(stem: str, expected: str) -> None:
    assert slug(stem) == expected
    assert checked_name(slug(stem)) == expected


@pytest.mark.parametrize("name", ["1", "007", "", "-a", "A", "a b", "a/b", "..", "ü", "a\n", "x" * 101])
def test_a_name_that_a_batch_can_not_have_is_refused_with_one_that_it_can(name: str) -> None:
    with pytest.raises(UsageError, match=r"can't name a batch: .* such as '([a-z0-9._-]+)'"):
        checked_name(name)


def picture_manifest(folder: Path) -> Path:
    folder.mkdir()
    (folder / "i.png").write_bytes(folder.name.encode())
    return write(folder / "m.jsonl", [{"prompt": "a fox", "model": "painter", "init_image": "i.png"}])


def test_the_same_bytes_beside_other_pictures_are_another_batch(engine: Engine, tmp_path: Path) -> None:
    here, there = (picture_manifest(tmp_path / name) for name in ("here", "there"))
    first, second = take_in(engine, here), take_in(engine, there)
    assert (first.is_new, second.is_new, second.id != first.id) == (True, True, True)
    assert [row["init_image"] for row in look(engine, "SELECT init_image FROM jobs ORDER BY id")] == [
        str(here.with_name("i.png")),
        str(there.with_name("i.png")),
    ]
    for path, batch in ((here, first), (there, second)):
        again = take_in(engine, path)
        assert (again.id, again.is_new) == (batch.id, False)


def test_scores_are_part_of_a_batch_only_where_they_are_asked_for(engine: Engine, foxes: Path) -> None:
    with order_for(foxes) as silent, order_for(foxes, clip_score="auto") as auto:
        assert silent.digest() == auto.digest()
    with order_for(foxes, clip_score="off") as off:
        assert off.digest() != silent.digest()


def test_only_batches_that_ask_for_it_are_told_apart_by_deep_cache(engine: Engine, foxes: Path) -> None:
    with order_for(foxes) as silent, order_for(foxes, deep_cache="1") as one:
        assert silent.digest() == one.digest()
    with order_for(foxes, deep_cache="2") as two:
        assert two.digest() != silent.digest()
    with pytest.raises(UsageError, match=r"--set deep_cache=11: .* less than or equal to 10"):
        parse_policy({"deep_cache": "11"})


def test_only_batches_that_ask_for_it_are_told_apart_by_weights(engine: Engine, foxes: Path) -> None:
    with order_for(foxes) as silent, order_for(foxes, weights="full") as full:
        assert full.digest() != silent.digest(), "the workers' settings may say otherwise"
    for given in ({}, {"weights": "full"}):
        take_in(engine, foxes, **given)
    found = look(engine, "SELECT policy FROM batches ORDER BY id")
    assert [row["policy"].get("weights") for row in found] == [None, "full"]
    with pytest.raises(UsageError, match=r"--set weights=int6: .* 'full', 'fp8', 'int8' or 'int4'"):
        parse_policy({"weights": "int6"})


def test_only_batches_that_ask_for_it_are_told_apart_by_their_decoder(engine: Engine, foxes: Path) -> None:
    with order_for(foxes) as silent, order_for(foxes, decoder="full") as full:
        assert silent.digest() == full.digest()
    with order_for(foxes, decoder="tiny") as tiny:
        assert tiny.digest() != silent.digest()
    with pytest.raises(UsageError, match=r"--set decoder=small: .* 'full' or 'tiny'"):
        parse_policy({"decoder": "small"})


def test_an_order_from_before_pictures_keeps_its_digest(engine: Engine, tmp_path: Path) -> None:
    """As version 0.1.0 made it for this manifest."""
    with order_for(write(tmp_path / "m.jsonl", [{"prompt": "a fox"}])) as order:
        identity = {
            "manifest": order.manifest.sha256,
            "format": "jsonl",
            "reading": {"columns": {}, "renames": {}, "strict": False},
            "policy": FIRST,
            "output": "/output",
            "default_model": MODEL,
            "name": None,
        }
        assert (
            hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest() in order.older_digests()
        )


def test_pictures_strengths_and_loras_reach_their_jobs(engine: Engine, tmp_path: Path) -> None:
    row = {"prompt": "a", "model": "filler", "init_image": "s3://b/i\\.png", "mask_image": "s3://b/m.png"}
    rows = [row | {"strength": 0.5, "lora": "cat:0.5"}, row, {"prompt": "b", "model": "filler"}]
    take_in(engine, write(tmp_path / "m.jsonl", rows))
    found = look(
        engine,
        """SELECT mode, lora, init_image, mask_image, depth_image, strength FROM jobs JOIN lanes ON lane_id = lanes.id
        ORDER BY ordinal""",
    )
    pictures = (row["init_image"], row["mask_image"], None)
    assert [tuple(job.values()) for job in found] == [
        ("inpaint", "cat:0.5", *pictures, 0.5),
        ("inpaint", "", *pictures, 1.0),
        ("text2image", "", None, None, None, None),
    ]


def with_model(engine: Engine, path: Path, default_model: str) -> Ingested:
    with order_for(path) as order:
        other = replace(order, default_model=default_model)
        return ingest(engine, other, rules(model=default_model))


def test_what_changes_no_picture_makes_no_other_batch(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"prompt": "a", "model": "sketcher"}])
    first = take_in(engine, path, output="s3://b/p")
    assert not take_in(engine, path, output="s3://b/p/").is_new
    assert not take_in(engine, path, output="s3://b/p", strict=True).is_new
    with order_for(path, output="s3://b/p") as order:
        for default in ("painter", "sketcher"):
            other = replace(order, default_model=default)
            assert ingest(engine, other, rules(model=default)).id == first.id, "no row depends on it"
    assert states(engine) == {"queued": 1}


def test_a_default_that_rows_depend_on_makes_another_batch(engine: Engine, foxes: Path) -> None:
    first, second = (with_model(engine, foxes, name) for name in ("sketcher", "painter"))
    assert second.is_new
    for name, batch in (("sketcher", first), ("painter", second)):
        assert with_model(engine, foxes, name).id == batch.id


def test_pictures_and_default_models_tell_batches_apart_one_by_one(engine: Engine, tmp_path: Path) -> None:
    """Each circumstance counts where rows depend on it, whatever the batch was compared with at first."""
    here, there = (picture_manifest(tmp_path / name) for name in ("here", "there"))
    first, second = take_in(engine, here), take_in(engine, there)
    assert first.id != second.id
    for path, batch in ((here, first), (there, second)):
        with order_for(path) as order:
            other = replace(order, default_model="painter")
            assert ingest(engine, other, rules(model="painter")).id == batch.id


@pytest.mark.parametrize(("strict", "output"), [(False, "/output"), (True, "/output"), (False, "/output/")])
def test_a_batch_of_an_older_version_is_recognised(
    engine: Engine, tmp_path: Path, strict: bool, output: str
) -> None:
    path = write(tmp_path / "m.jsonl", [{"prompt": "a fox"}])
    old = take_in(engine, path)
    with order_for(path) as order:
        identity = {
            "manifest": order.manifest.sha256,
            "format": "jsonl",
            "reading": {"columns": {}, "renames": {}, "strict": strict},
            "policy": order.policy.identity(),
            "output": output,
            "default_model": MODEL,
            "name": None,
        }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    change(engine, "UPDATE batches SET digest = :digest", digest=digest)
    for again in ({}, {"strict": True}, {"output": "/output/"}):
        assert take_in(engine, path, **again).id == old.id


def test_a_strict_submit_of_a_batch_with_rejected_rows_says_so(engine: Engine, foxes: Path) -> None:
    take_in(engine, foxes)
    with pytest.raises(ManifestError, match=r"is batch foxes already, of which 1 rows were rejected"):
        take_in(engine, foxes, strict=True)
    assert states(engine) == {"queued": 3}
