"""A plan says what a submit would do, and does nothing of it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.errors import ManifestError
from jobs.manifest import Row, plain_sampler, read_rows
from models.catalogue.catalogue import Catalogue
from models.catalogue.samplers import SAMPLERS, other_names, viewer_name
from models.errors import UnknownModelError
from scheduler.ingest.dry_run import SHALLOW, make_plan
from scheduler.ingest.dry_run_plan import Plan, report
from scheduler.ingest.duplicate_detection import SHOWN
from scheduler.ingest.ingest import ingest
from scheduler.ingest.rules_from_catalogue import Reading, row_rules
from tests.factories import look, order_for

Rows = list[dict[str, Any]]

MIXED: Rows = [
    {"prompt": "a cat", "num_images": 3},
    {"prompt": "cat " * 75},
    {"prompt": "cat " * 76},
    {"prompt": "cat", "width": 128, "upscale": 4, "num_images": 2},
    {"prompt": "cat", "steps": 0},
    {"prompt": "cat", "steps": "many"},
    {"prompt": ""},
    {"prompt": "cat", "model": "TINY", "guidance_scale": 1.0},
]

OWN_CARD = """
id = "mine"
title = "Mine"
family = "text2image"
summary = "A model whose files are elsewhere."
license = "MIT"
limits = "None known."
source = "mine"
width = 512
height = 256
size_multiple = 8
min_size = 64
max_size = 1024
vae_factor = 8
sampler = "ddim"
samplers = ["ddim"]
steps = 50
guidance_scale = 7.5
modes = ["text2image"]
gflop_per_step = 100.0
"""


@pytest.fixture(scope="module")
def catalogue(shared_models: Path) -> Catalogue:
    return Catalogue.load(shared_models)


def write(folder: Path, rows: Rows) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan_of(catalogue: Catalogue, path: Path, model: str = "tiny-random", **options: Any) -> Plan:
    with order_for(path, **options) as order:
        return make_plan(order, row_rules(catalogue, model, order.reading), catalogue)


def test_rows_jobs_and_rejects_are_counted(catalogue: Catalogue, tmp_path: Path) -> None:
    plan = plan_of(catalogue, write(tmp_path, MIXED))
    assert (plan.rows, plan.jobs, plan.rejected) == (8, 8, 3)
    assert [(reject.line, reject.column) for reject in plan.rejects] == [
        (5, "steps"),
        (6, "steps"),
        (7, "prompt"),
    ]
    assert sum(plan.reasons.values()) == 3


def test_lanes_have_the_jobs_that_can_share_a_device_batch(catalogue: Catalogue, tmp_path: Path) -> None:
    plan = plan_of(catalogue, write(tmp_path, MIXED))
    plain = "tiny-random", "text2image", ""
    assert plan.lanes == {(*plain, 64, 64, 0): 6, (*plain, 128, 64, 4): 2}


def test_prompts_longer_than_the_model_reads_are_counted_with_their_lines(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    plan = plan_of(catalogue, write(tmp_path, MIXED))
    assert (plan.truncated, plan.truncated_lines, plan.tokens_unknown) == (1, [3], [])


def test_what_is_listed_stays_short_and_what_is_counted_does_not(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    rows: Rows = [{"prompt": "cat " * 80}] * 30 + [{"prompt": "cat", "seed": -1 - i} for i in range(30)]
    plan = plan_of(catalogue, write(tmp_path, rows))
    assert (plan.truncated, len(plan.truncated_lines)) == (30, SHOWN)
    assert (plan.rejected, len(plan.rejects)) == (30, SHOWN)


def test_size_grows_with_pixels_and_upscaling(catalogue: Catalogue, tmp_path: Path) -> None:
    plain = plan_of(catalogue, write(tmp_path, [{"prompt": "cat"}]))
    twice = plan_of(catalogue, write(tmp_path, [{"prompt": "cat", "num_images": 2}]))
    large = plan_of(catalogue, write(tmp_path, [{"prompt": "cat", "upscale": 4}]))
    assert (plain.pixels, twice.pixels, large.pixels) == (4096, 2 * 4096, 16 * 4096)
    assert plain.bytes("png") > plain.bytes("jpeg") > plain.bytes("webp") > 0


def test_work_grows_with_steps_guidance_size_and_upscaling(catalogue: Catalogue, tmp_path: Path) -> None:
    """By the card: 0.011 GFLOP a step and UNet row at 64 x 64; guidance above 1 takes two rows."""

    def gflop(**columns: Any) -> float:
        return plan_of(catalogue, write(tmp_path, [{"prompt": "cat"} | columns])).gflop

    assert gflop() == pytest.approx(10 * 2 * 0.011)
    assert gflop(guidance_scale=1) == pytest.approx(10 * 0.011)
    assert gflop(steps=40, num_images=3) == pytest.approx(3 * 40 * 2 * 0.011)
    assert gflop(width=128, height=128) == pytest.approx(4 * 10 * 2 * 0.011)
    assert gflop(upscale=4) == pytest.approx(10 * 2 * 0.011 + 4 * 2 * 0.659)
    cached = plan_of(catalogue, write(tmp_path, [{"prompt": "cat"}]), deep_cache="5").gflop
    assert cached == pytest.approx(10 * 2 * 0.011 * (1 + 4 * SHALLOW) / 5)


def test_a_model_whose_files_are_elsewhere_is_planned_without_tokens(tmp_path: Path) -> None:
    (tmp_path / "models" / "cards").mkdir(parents=True)
    (tmp_path / "models" / "cards" / "mine.toml").write_text(OWN_CARD)
    catalogue = Catalogue.load(tmp_path / "models")
    plan = plan_of(catalogue, write(tmp_path, [{"prompt": "cat " * 90}]), "mine")
    assert (plan.jobs, plan.truncated, plan.tokens_unknown) == (1, 0, ["mine"])
    assert plan.lanes == {("mine", "text2image", "", 512, 256, 0): 1}


def test_a_plan_agrees_with_the_ingest(engine: Engine, catalogue: Catalogue, tmp_path: Path) -> None:
    path = write(tmp_path, MIXED)
    plan = plan_of(catalogue, path)
    with order_for(path) as order:
        batch = ingest(engine, order, row_rules(catalogue, "tiny-random", order.reading))
    assert (plan.rows, plan.jobs, plan.rejected) == (batch.rows, batch.jobs, batch.rejected)
    lanes = look(
        engine,
        """SELECT model, mode, lora, width, height, upscale, count(*) AS n FROM lanes JOIN jobs ON lane_id = lanes.id
        GROUP BY lanes.id""",
    )
    assert plan.lanes == {tuple(lane.values())[:6]: lane["n"] for lane in lanes}
    rejects = look(engine, 'SELECT line, "column", reason, excerpt FROM rejects ORDER BY id')
    assert [tuple(row.values()) for row in rejects] == [
        (reject.line, reject.column, reject.reason, reject.excerpt) for reject in plan.rejects
    ]


def test_the_report_is_json_and_says_all(catalogue: Catalogue, tmp_path: Path) -> None:
    path = write(tmp_path, MIXED)
    plan = plan_of(catalogue, path)
    with order_for(path, format="webp") as order:
        told = json.loads(json.dumps(report(plan, order, 12.34)))
    assert (told["manifest"], told["format"], told["rows"], told["jobs"]) == (str(path), "jsonl", 8, 8)
    shape = {
        "model": "tiny-random",
        "mode": "text2image",
        "lora": "",
        "width": 128,
        "height": 64,
        "upscale": 4,
    }
    assert told["lanes"][1] == shape | {"jobs": 2}
    assert (told["truncated_prompts"], told["truncated_lines"]) == (1, [3])
    assert (told["estimated_seconds"], told["estimated_bytes"]) == (12.3, plan.bytes("webp"))
    assert told["rejects"][2]["reason"] == "prompt is empty"


def test_a_file_that_can_not_be_read_is_said_so(catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("colour,size\nred,4\n")
    with pytest.raises(ManifestError, match="prompt"):
        plan_of(catalogue, path)


def test_a_default_model_that_is_not_there_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'tiny-random'"):
        row_rules(catalogue, "tiny-randon", Reading())


def test_only_what_makes_pictures_can_be_asked_for(catalogue: Catalogue) -> None:
    rules = row_rules(catalogue, "tiny-random", Reading({"steps": "2"}, {"prompt": "Caption"}))
    assert {"tiny", "tiny-random", "tiny-x4", "tiny-random-x4"} <= set(rules.models)
    assert "tiny-random-safety" not in rules.models
    assert rules.models["tiny"].upscales == rules.models["tiny-x4"].upscales == {4}
    assert rules.models["tiny-x4"].modes == {"upscale"}
    assert (rules.overrides, rules.renames) == ({"steps": "2"}, {"prompt": "Caption"})


def test_plan_starts_no_service_and_leaves_no_trace(tmp_path: Path, shared_models: Path) -> None:
    path = write(tmp_path, MIXED)
    own = {"NIGHTMILL_DATA_DIR": str(tmp_path / "data"), "NIGHTMILL_MODELS_DIR": str(shared_models)}
    ended = subprocess.run(
        [sys.executable, "-m", "console.cli", "plan", str(path), "--out", str(tmp_path / "out"), "--json"],
        env=os.environ | own,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.sub(r"reading \(\d+s\)\n", "", ended.stderr)  # on a slow machine
    assert (ended.returncode, said) == (0, "")
    assert json.loads(ended.stdout)["jobs"] == 8
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.jsonl"]


def test_pictures_modes_and_loras_are_counted(catalogue: Catalogue, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.png").write_bytes(b"x")
    rows: Rows = [
        {"prompt": "cat", "init_image": "one.png", "num_images": 3, "strength": 0.5},
        {"prompt": "cat", "init_image": "./one.png"},
        {"prompt": "cat", "init_image": "two.png", "model": "tiny-x4"},
        {"prompt": "cat", "init_image": "none.png"},
        {"prompt": "cat"},
    ]
    path = write(tmp_path, rows)
    plan = plan_of(catalogue, path)
    with order_for(path) as order:
        told = report(plan, order, None)
    assert told["modes"] == {"image2image": 4, "text2image": 1, "upscale": 1}
    assert (told["pictures"], told["missing_pictures"], told["rejected"], told["loras"]) == (2, 1, 1, {})
    assert told["rejects"][0]["reason"] == f"there is no file {tmp_path}/none.png"
    assert plan.lanes["tiny-random-x4", "upscale", "", 0, 0, 4] == 1
    only = plan_of(catalogue, write(tmp_path, rows[:1]))
    assert only.gflop == pytest.approx(3 * 5 * 2 * 0.011), "half of ten steps"


def test_long_negative_prompts_are_counted_where_they_are_read(catalogue: Catalogue, tmp_path: Path) -> None:
    long = {"prompt": "cat", "negative_prompt": "dog " * 80}
    plan = plan_of(catalogue, write(tmp_path, [long, long | {"guidance_scale": 1}, {"prompt": "cat"}, long]))
    assert (plan.truncated, plan.truncated_negatives, plan.truncated_negative_lines) == (0, 2, [1, 4])


def test_repeated_ids_are_counted_and_refused_on_demand(catalogue: Catalogue, tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "cat", "id": id} for id in ("a", "b", 7, "a", "7", None, None)]
    path = write(tmp_path, rows)
    assert plan_of(catalogue, path).repeated_ids == (2, (4, 5))
    with order_for(path) as order:
        unique = replace(order, reading=Reading(unique_ids=True))
        own = row_rules(catalogue, "tiny-random", unique.reading)
        with pytest.raises(ManifestError, match="2 ids are repeated, lines 4, 5; nothing was ingested"):
            make_plan(unique, own, catalogue)


def test_seeds_that_meet_are_counted(catalogue: Catalogue, tmp_path: Path) -> None:
    rows: Rows = [
        {"prompt": "cat", "seed": 7, "num_images": 3},
        {"prompt": "cat", "seed": 9},
        {"prompt": "cat", "seed": 8, "num_images": 2, "id": "x"},
        {"prompt": "cat", "seed": 7, "steps": 3},
        {"prompt": "dog", "seed": 7},
        {"prompt": "cat"},
        {"prompt": "cat"},
    ]
    assert plan_of(catalogue, write(tmp_path, rows)).same_pictures == (3, (2, 3, 3))


SYNTAX = {
    "a (large:1.3) circle": "weights",
    "a ((large)) circle": "emphasis, as in ((",
    "a (large)++ circle": "emphasis, as in (word)++",
    "[red:blue:0.5] circle": "prompt editing",
    "a {red|blue} circle": "choices",
    "a __colour__ circle": "wildcards",
    "a circle AND a cross": "parts",
    "a circle BREAK a cross": "parts",
    "a circle --steps 4": "options",
    "a circle --ar 3:2 --seed 7": "options",
    "a circle ### blurry": "a negative prompt",
    "a circle\nNegative prompt: blurry\nSteps: 4, Sampler: Euler a": "generation parameters",
    "embedding:easynegative circle": "embeddings",
    "a <cat-toy> circle": "embeddings",
    "a circle <hypernet:x:1>": "networks",
    "a \\(large\\) circle": "escapes",
    "/imagine a circle": "commands",
    "# circles": "comments",
}
PLAIN = [
    "a fox (in snow), 50mm",
    "7:30 in the morning",
    "a fox - an owl",
    "an R&B band, C++",
    "2001: A Space Odyssey",
]


@pytest.mark.parametrize(("prompt", "kind"), SYNTAX.items())
def test_other_tools_syntax_is_named(catalogue: Catalogue, tmp_path: Path, prompt: str, kind: str) -> None:
    plan = plan_of(catalogue, write(tmp_path, [{"prompt": "cat"}, {"prompt": prompt}]))
    (found,) = [name for name in plan.syntax if name.startswith(kind)]
    assert (plan.syntax[found], plan.syntax_lines[found]) == (1, 2)


def test_plain_prompts_have_none(catalogue: Catalogue, tmp_path: Path) -> None:
    plan = plan_of(catalogue, write(tmp_path, [{"prompt": prompt} for prompt in PLAIN]))
    assert not plan.syntax


def test_lines_add_up_in_the_report(catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text('prompt,label\n\ncat,1\n"a\ncat",2\n,\ncat\n')
    with order_for(path) as order:
        plan = make_plan(order, row_rules(catalogue, "tiny-random", order.reading), catalogue)
        told = report(plan, order, None)
    lines = told["lines"]
    assert lines == {"read": 7, "rows": 2, "rejected": 1, "blank": 2, "header": 1, "continued": 1}
    assert told["meta_columns"] == ["label"]


def test_every_name_of_a_sampler_that_is_written_is_read(catalogue: Catalogue, tmp_path: Path) -> None:
    names = {
        written: name for name in SAMPLERS for written in (name, viewer_name(name), viewer_name(name).upper())
    }
    rows: Rows = [{"prompt": "cat", "sampler": name} for name in names]
    with order_for(write(tmp_path, rows)) as order:
        items = list(read_rows(order.manifest, row_rules(catalogue, "tiny-random", order.reading)))
    assert [item.sampler for item in items if isinstance(item, Row)] == list(names.values())


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("k_euler_a", "euler_a"),
        ("k_euler_ancestral", "euler_a"),
        ("K_EULER", "euler"),
        ("sample_euler_ancestral", "euler_a"),
        ("EulerAncestralDiscreteScheduler", "euler_a"),
        ("EulerDiscreteScheduler", "euler"),
        ("PNDMScheduler", "pndm"),
        ("plms", "pndm"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("DPMSolverMultistep", "dpmpp_2m"),
        ("dpm++_2m", "dpmpp_2m"),
        ("KarrasDPM", "dpmpp_2m_karras"),
        ("dpmpp_2m_k", "dpmpp_2m_karras"),
        ("uni_pc", "unipc"),
        ("UniPCMultistepScheduler", "unipc"),
        ("k_heun", "heun"),
        ("HeunDiscreteScheduler", "heun"),
    ],
)
def test_other_programs_names_of_samplers(given: str, ours: str) -> None:
    assert {plain_sampler(name): known for name, known in other_names().items()}[plain_sampler(given)] == ours


@pytest.mark.parametrize(
    "name",
    ["LMS", "k_lms", "DDPM", "DDPMScheduler", "dpmpp_2m_sde", "DPM++ SDE Karras", "DPM2 a", "euler_k", "lcm"],
)
def test_samplers_that_are_not_ours_are_refused_without_a_hint(
    catalogue: Catalogue, tmp_path: Path, name: str
) -> None:
    plan = plan_of(catalogue, write(tmp_path, [{"prompt": "cat", "sampler": name}]))
    (reject,) = plan.rejects
    assert reject.reason.startswith(f"there is no sampler '{name}' here; there are ddim")
