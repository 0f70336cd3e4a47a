"""Derived seeds: by row as earlier versions made them, by id without regard to place, in Python and in SQL alike."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from jobs.manifest import Row
from jobs.manifest.seeds import ID_SEEDS, ROW_SEEDS, Seeds, seed_of_name, sql_step
from jobs.states import SeedSource
from tests.factories import look
from tests.jobs.manifest.helpers import only_row, read_bytes


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Row:
    return only_row(
        read_bytes(Path(tmp_path_factory.mktemp("m")), "m.jsonl", b'{"prompt": "a fox", "id": "f"}')
    )


def test_seeds_by_row_are_those_of_earlier_versions(row: Row) -> None:
    """As version 0.1.0 made them."""
    assert Seeds(0).of(replace(row, num_images=2)) == [666395429, 3320831190]
    assert Seeds(0).first(replace(row, ordinal=5)) == 666395434


@given(st.integers(0, 2**63 - 1), st.text(min_size=1), st.integers(0, 10**9), st.integers(1, 50))
def test_seeds_by_id_depend_on_the_id_and_are_exact_in_json(
    row: Row, batch_seed: int, name: str, ordinal: int, images: int
) -> None:
    seeds = Seeds(batch_seed, SeedSource.ID)
    one = replace(row, id=name.encode(errors="replace").decode(), num_images=images)
    made = seeds.of(one)
    assert made == seeds.of(replace(one, ordinal=ordinal))
    assert len(set(made)) == images
    assert all(2**32 <= seed < 2**53 for seed in made)
    assert made[:1] == [seeds.first(one)] != [Seeds(batch_seed ^ 1, SeedSource.ID).first(one)]


def test_a_hundred_thousand_ids_share_no_seed(row: Row) -> None:
    seeds = Seeds(7, SeedSource.ID)
    made = {seeds.first(replace(row, id=f"img-{number}")) for number in range(100_000)}
    assert len(made) == 100_000
    halves = [sum(seed < ROW_SEEDS + ID_SEEDS // 2 for seed in made), sum(seed % 2 for seed in made)]
    assert all(49_000 < half < 51_000 for half in halves)


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 2**64 - 1])
def test_steps_in_sql_stay_among_seeds_of_their_kind(engine: Engine, seed: int) -> None:
    def step(steps: int) -> int:
        query = f"SELECT {sql_step(':steps')} AS n FROM (SELECT CAST({seed} AS numeric) AS seed) AS s"  # noqa: S608
        return int(look(engine, query, steps=steps)[0]["n"])

    bounds = next(space for space in ((0, 2**32), (2**32, 2**53), (2**53, 2**64)) if seed < space[1])
    assert all((bounds[0] if seed < 2**53 else 0) <= step(steps) < bounds[1] for steps in (1, 2, 10**6))
    assert step(0) == seed


@pytest.mark.parametrize("source", SeedSource)
def test_steps_in_sql_are_those_of_further_images(engine: Engine, row: Row, source: SeedSource) -> None:
    first, *others = Seeds(3, source).of(replace(row, num_images=4))
    places = f"(SELECT CAST({first} AS numeric) AS seed) AS s, generate_series(1, 3) AS n"
    query = f"SELECT {sql_step('n')} AS n FROM {places}"  # noqa: S608
    assert [int(found["n"]) for found in look(engine, query)] == others


def test_the_seed_of_a_name_is_fixed_and_exact_in_json() -> None:
    made = [seed_of_name(name) for name in ("foxes", "foxes", "owls")]
    assert made[0] == made[1] != made[2]
    assert all(0 < seed < 2**53 for seed in made)
