"""Seeds by id where ids are fit for it: what a manifest loses, gains or moves changes no other row's images."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.errors import ManifestError, UsageError
from scheduler.ingest import duplicate_detection
from scheduler.ingest.ingest import Ingested
from scheduler.ingest.rules_from_catalogue import Reading
from tests.factories import change, look, order_for, submit
from tests.jobs.policy.test_batch_policy import FIRST

Rows = list[dict[str, Any]]
FOXES: Rows = [{"id": f"fox-{n}", "prompt": f"fox {n}", "num_images": 2} for n in range(5)]
PROMPTS = "id,prompt\nf,a fox\no,an owl\n"


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def take_in(engine: Engine, path: Path, rows: Rows | None = None, **options: Any) -> Ingested:
    with order_for(write(path, rows) if rows is not None else path, **options) as order:
        return submit(engine, order)


def seeds(engine: Engine, batch: Ingested) -> dict[str, int]:
    found = look(engine, 'SELECT row_id, prompt, "index", seed FROM jobs WHERE batch_id = :id', id=batch.id)
    return {f"{row['row_id'] or row['prompt']}/{row['index']}": int(row["seed"]) for row in found}


def test_dropped_new_and_moved_rows_change_no_other(engine: Engine, tmp_path: Path) -> None:
    before = take_in(engine, tmp_path / "foxes.jsonl", FOXES)
    changed = [FOXES[4], {"id": "owl", "prompt": "an owl"}, *FOXES[1:4]]
    after = take_in(engine, tmp_path / "foxes.jsonl", changed)
    assert (after.is_new, after.name, after.seed_from) == (True, f"foxes-{after.name[-8:]}", "id")
    assert after.batch_seed == before.batch_seed, "the name that was wanted is the same"
    old, new = seeds(engine, before), seeds(engine, after)
    assert {key: old[key] for key in old if not key.startswith("fox-0")} == {
        key: new[key] for key in new if not key.startswith("owl")
    }
    assert len(set(new.values())) == 9


def test_batches_of_other_names_or_seeds_have_other_images(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", FOXES)
    batches = [take_in(engine, path, name="a"), take_in(engine, path, name="b")]
    batches += [take_in(engine, path, name=f"given-{n}", batch_seed=n) for n in (1, 1 + 2**40)]
    assert len({seed for batch in batches for seed in seeds(engine, batch).values()}) == 40


UNFIT: dict[str, tuple[Rows, str]] = {
    "missing": ([*FOXES, {"prompt": "an owl"}], "line 6: has no id"),
    "repeated": ([*FOXES, FOXES[0] | {"prompt": "an owl"}], "line 6: repeats the id of an earlier row"),
    "none": ([{"prompt": "an owl"}], "line 1: has no id"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_ids_that_are_missing_or_repeated_are_not_used(engine: Engine, tmp_path: Path, kind: str) -> None:
    rows, problem = UNFIT[kind]
    path = write(tmp_path / "m.jsonl", rows)
    with pytest.raises(UsageError, match=f"{problem}; --set seed_from=id needs an id in every row"):
        take_in(engine, path, seed_from="id", batch_seed=0)
    assert look(engine, "SELECT id FROM batches") == []
    chosen = take_in(engine, path, name="chosen", batch_seed=0)
    by_row = take_in(engine, path, name="by-row", batch_seed=0, seed_from="row")
    assert (chosen.seed_from, by_row.seed_from) == ("row", "row")
    assert (chosen.rows, chosen.jobs) == (by_row.rows, by_row.jobs)
    assert seeds(engine, chosen) == seeds(engine, by_row)
    counted = look(engine, "SELECT sum(delta) AS n FROM job_counts WHERE batch_id = :id", id=chosen.id)
    assert counted[0]["n"] == chosen.jobs, "the first attempt left nothing"


def test_repeated_ids_are_found_beyond_those_kept_in_memory(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = duplicate_detection.Repeats.__init__
    monkeypatch.setattr(duplicate_detection.Repeats, "__init__", lambda repeats: init(repeats, 3))
    assert take_in(engine, tmp_path / "a.jsonl", FOXES).seed_from == "id"
    batch = take_in(engine, tmp_path / "b.jsonl", [*FOXES, FOXES[4] | {"prompt": "an owl"}])
    assert (batch.seed_from, batch.repeated_ids) == ("row", 1)
    with (
        order_for(write(tmp_path / "c.jsonl", [*FOXES, FOXES[4]])) as order,
        pytest.raises(ManifestError, match="1 ids are repeated; nothing was ingested"),
    ):
        submit(engine, replace(order, reading=Reading(unique_ids=True)))


def test_what_earlier_versions_made_is_what_they_would_make(engine: Engine, tmp_path: Path) -> None:
    """The seeds are those that version 0.1.0 stored for this manifest."""
    batch = take_in(engine, tmp_path / "m.jsonl", FOXES, batch_seed=0, seed_from="row")
    assert look(engine, "SELECT policy, seed_from FROM batches") == [{"policy": {}, "seed_from": "row"}]
    golden = 0x9E3779B1
    assert seeds(engine, batch) == {
        f"fox-{n}/{index}": (666395429 + n + index * golden) % 2**32 for n in range(5) for index in range(2)
    }


@pytest.mark.parametrize("given", [{}, {"batch_seed": 7}])
def test_a_batch_of_the_version_before_is_found_and_goes_on(
    engine: Engine, tmp_path: Path, given: dict[str, int]
) -> None:
    path = write(tmp_path / "m.jsonl", FOXES)
    old = {"batch_seed": 0, "seed_from": "row"} | given
    batch = take_in(engine, path, **old)
    before = seeds(engine, batch)
    assert take_in(engine, path, **given).is_new, "this version's batch, whose seeds were given, is another"
    change(engine, "DELETE FROM batches WHERE id <> :id", id=batch.id)
    change(engine, "UPDATE batches SET settings = settings - 'chosen'")
    again = take_in(engine, path, **given)
    assert (again.id, again.is_new, again.seed_from) == (batch.id, False, "row")
    assert again.batch_seed == old["batch_seed"]
    assert seeds(engine, batch) == before


def test_a_recipe_that_shares_seeds_goes_on_sharing_them(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(PROMPTS)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("prompts: {file: p.csv}\nsweep: {guidance_scale: [1, 2]}\n")
    batch = take_in(engine, recipe)
    found = look(engine, "SELECT row_id, count(DISTINCT seed) AS n FROM jobs GROUP BY 1")
    assert (batch.seed_from, [row["n"] for row in found]) == ("row", [1, 1])
    with pytest.raises(UsageError, match=r"rows of a prompt share their seeds in .*share_seed: false"):
        take_in(engine, recipe, seed_from="id")
    recipe.write_text("prompts: {file: p.csv}\nshare_seed: false\n")
    assert take_in(engine, recipe, name="apart").seed_from == "id"


def test_a_choice_is_part_of_the_identity_as_it_was_given(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", FOXES)
    digests = set()
    for given in ({}, {"seed_from": "id"}, {"seed_from": "row"}, {"batch_seed": 0}):
        with order_for(path, **given) as order:
            digests.add(order.digest())
    assert len(digests) == 4


def test_the_digest_of_given_seeds_is_that_of_the_version_before(tmp_path: Path) -> None:
    with order_for(write(tmp_path / "m.jsonl", FOXES), batch_seed=0, seed_from="row") as order:
        identity = {
            "manifest": order.manifest.sha256,
            "format": "jsonl",
            "columns": {},
            "renames": {},
            "drop": [],
            "unique_ids": False,
            "delimiter": None,
            "policy": FIRST,
            "output": "/output",
            "name": None,
        }
        assert order.digest() == hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
