"""Recipes as a user meets them: looked at, planned, submitted once."""

import json
import re
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.console.conftest import Typed
from tests.factories import look
from tests.paths import ROOT

RECIPE = """
prompts:
  file: prompts.txt
  template: "{prompt}, {style}"
variables:
  style: [oil, ink]
sweep:
  guidance_scale: [1.5, 3, 7.5]
columns: {steps: 2}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a fox\nan owl\n")
    path = tmp_path / "Night Recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_its_rows_can_be_looked_at(typed: Typed, recipe: Path) -> None:
    first = typed("recipe", recipe.name, "--limit", "4")
    assert first.code == 0, first.err
    assert [json.loads(line) for line in first.out.splitlines()] == [
        {"prompt": "a fox, oil", "style": "oil", "steps": 2, "guidance_scale": 1.5},
        {"prompt": "a fox, oil", "style": "oil", "steps": 2, "guidance_scale": 3},
        {"prompt": "a fox, oil", "style": "oil", "steps": 2, "guidance_scale": 7.5},
        {"prompt": "a fox, ink", "style": "ink", "steps": 2, "guidance_scale": 1.5},
    ]
    assert typed("recipe", recipe.name, "--count").out == "12\n"
    assert len(typed("recipe", recipe.name).out.splitlines()) == 12
    piped = typed("recipe", "-", stdin="prompts: {template: füchse}\n")
    assert json.loads(piped.out) == {"prompt": "füchse"}


def test_plan_counts_what_submit_stores(typed: Typed, engine: Engine, recipe: Path) -> None:
    planned = typed("plan", recipe.name, "--json")
    assert planned.code == 0, planned.err
    assert (planned.json["format"], planned.json["rows"], planned.json["jobs"]) == ("recipe", 12, 12)
    submitted = typed("submit", recipe.name, "--json", "--set", "num_images=2")
    assert submitted.code == 0, submitted.err
    assert (submitted.json["name"], submitted.json["counts"]["queued"]) == ("night-recipe", 24)
    jobs = look(
        engine, "SELECT prompt, guidance_scale, steps, seed, meta, index FROM jobs ORDER BY ordinal, index"
    )
    assert {row["steps"] for row in jobs} == {2}
    assert [row["meta"]["style"] for row in jobs] == (["oil"] * 6 + ["ink"] * 6) * 2
    seeds = {(row["prompt"], row["index"]): set[int]() for row in jobs}
    for row in jobs:
        seeds[row["prompt"], row["index"]].add(int(row["seed"]))
    assert [len(shared) for shared in seeds.values()] == [1] * 8
    assert len(set().union(*seeds.values())) == 8


def test_the_same_recipe_is_the_same_batch_until_a_file_changes(
    typed: Typed, engine: Engine, recipe: Path
) -> None:
    first = typed("submit", recipe.name, "--json")
    assert typed("submit", recipe.name, "--json").json["batch"] == first.json["batch"]
    (recipe.parent / "prompts.txt").write_text("a fox\na cat\n")
    other = typed("submit", recipe.name, "--json")
    assert other.json["batch"] != first.json["batch"]
    assert re.fullmatch(r"night-recipe-[0-9a-f]{8}", other.json["name"])


def test_rejects_name_the_recipes_line(typed: Typed, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("1.5", "99"))
    assert typed("submit", recipe.name).code == 0
    rejects = typed("rejects", "night-recipe", "--json").json
    assert {(row["line"], row["column"]) for row in rejects} == {(4, "guidance_scale")}
    assert json.loads(rejects[0]["excerpt"])["prompt"] == "a fox, oil"
    assert len(rejects) == 4


@pytest.mark.parametrize("command", ["recipe", "plan", "submit", "run"])
def test_a_wrong_recipe_is_told_in_one_line(typed: Typed, recipe: Path, command: str) -> None:
    recipe.write_text(RECIPE.replace("{style}", "{stile}"))
    ended = typed(command, recipe.name)
    assert ended.code == 2
    assert "Night Recipe.yaml:4:13: there is no variable 'stile'; did you mean 'style'?" in " ".join(
        ended.err.split()
    )


def test_what_is_no_recipe(typed: Typed, recipe: Path) -> None:
    ended = typed("recipe", "prompts.txt")
    assert ended.code == 2
    assert "prompts.txt is no recipe: its name has to end in .yaml or .yml" in ended.err
    (recipe.parent / "p.jsonl").write_text('{"prompt": "fox"}\n{\n')
    (recipe.parent / "b.yaml").write_text("prompts: {file: p.jsonl}\n")
    broken = typed("recipe", "b.yaml")
    assert (broken.code, broken.out) == (1, '{"prompt": "fox"}\n')
    assert "b.yaml:1: p.jsonl, line 2: is not JSON" in broken.err


def test_the_example_can_be_planned(typed: Typed) -> None:
    planned = typed(
        "plan", str(ROOT / "examples" / "guidance-sweep.yaml"), "--json", "--model", "tiny-random"
    )
    assert planned.code == 0, planned.err
    assert (planned.json["rows"], planned.json["rejected"], planned.json["jobs"]) == (128, 0, 128)


HUGE = """
prompts: {template: "{a} {b} {c}"}
variables: {a: {file: n.txt}, b: {file: n.txt}, c: {file: n.txt}}
sweep: {steps: [2, 4], width: [64]}
columns: {height: 64}
"""


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    (tmp_path / "n.txt").write_text("\n".join(f"word{number}" for number in range(10_000)))
    path = tmp_path / "huge.yaml"
    path.write_text(HUGE)
    return path


def test_a_huge_recipe_is_planned_from_a_sample(typed: Typed, huge: Path) -> None:
    planned = typed("plan", huge.name, "--json")
    assert planned.code == 0, planned.err
    assert (planned.json["rows"], planned.json["jobs"], planned.json["sample"]) == (
        2 * 10**12,
        2 * 10**12,
        10_000,
    )
    assert sum(lane["jobs"] for lane in planned.json["lanes"]) == 2 * 10**12
    assert "estimated from 10,000 of them" in typed("plan", huge.name).out


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_huge_recipe_is_asked_for_before_a_row_is_made(
    typed: Typed, engine: Engine, huge: Path, command: str
) -> None:
    ended = typed(command, huge.name)
    assert ended.code == 2
    assert (
        "huge.yaml: makes 2,000,000,000,000 rows, each of one image or more; if that is meant, say --yes"
        in ended.err
    )
    assert look(engine, "SELECT count(*) AS n FROM batches")[0]["n"] == 0


def test_rows_of_very_many_images_are_asked_for_before_anything_is_stored(
    typed: Typed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.manifests.ingest_manifest.MAX_JOBS", 100)
    (typed.folder / "m.jsonl").write_text('{"prompt": "a", "num_images": 40}\n' * 5)
    ended = typed("submit", "m.jsonl")
    assert ended.code == 2
    assert (
        "m.jsonl: makes 120 images up to line 3, and isn't read further; if that is meant, say --yes"
        in ended.err
    )
    assert look(engine, "SELECT count(*) AS n FROM batches")[0]["n"] == 0
    assert typed("submit", "m.jsonl", "--yes", "--json").json["counts"]["queued"] == 200
    assert typed("submit", "m.jsonl").code == 0, "what is known isn't asked for"


def test_what_a_target_adds_is_planned_and_asked_for(
    typed: Typed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.manifests.ingest_manifest.MAX_JOBS", 110)
    (typed.folder / "m.jsonl").write_text(
        '{"prompt": "a", "label": "x"}\n' * 3 + '{"prompt": "b", "label": "y"}\n'
    )
    per_label = "--set", "target_per=label"
    assert typed("plan", "m.jsonl", "--set", "target=50", *per_label, "--json").json["jobs"] == 100
    ended = typed("submit", "m.jsonl", "--set", "target=60", *per_label)
    assert (ended.code, "m.jsonl: makes 120 images to reach its target" in ended.err) == (2, True)
    assert look(engine, "SELECT count(*) AS n FROM batches")[0]["n"] == 0
    assert (
        typed("submit", "m.jsonl", "--set", "target=50", *per_label, "--json").json["counts"]["queued"] == 100
    )


def test_a_cancelled_batch_is_not_paused(typed: Typed, engine: Engine) -> None:
    (typed.folder / "m.jsonl").write_text('{"prompt": "a"}\n')
    assert typed("submit", "m.jsonl").code == 0
    assert typed("cancel", "m").code == 0
    ended = typed("pause", "m")
    assert (ended.code, "a cancelled batch can't be paused" in ended.err) == (2, True)
    assert typed("retry", "m", "--json").json["state"] == "queued"


def test_a_slash_that_is_missing_in_an_output_is_told(typed: Typed) -> None:
    (typed.folder / "m.jsonl").write_text('{"prompt": "a"}\n')
    ended = typed("submit", "m.jsonl", "--out", "s3:/bucket/night")
    assert (ended.code, "write it as s3://bucket/prefix" in ended.err) == (2, True)
