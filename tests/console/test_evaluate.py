"""`nightmill evaluate` on a batch whose pictures are drawn by code, so that what it must say is known."""

import hashlib
import io
import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from console.evaluation.measure_by_column import Point
from console.evaluation.plot import draw
from jobs.db.engine import connect
from jobs.job_dataclasses import Job, LaneId
from jobs.queue import transitions
from jobs.settings import Settings
from models.assess.clip_score import ClipScorer
from models.shapes.drawing import Pixels
from models.shapes.drawing import draw as draw_scene
from models.shapes.world import Scene, Shape
from tests.command_line import Ended
from tests.console.conftest import Typed, bench
from tests.factories import image, look, take
from tests.models.tiny_clip import build_clip
from tests.servers import DatabasePool

CLIP = """
id = "tiny-clip"
title = "Tiny CLIP"
family = "clip"
summary = "A test."
license = "CC0"
limits = "All."
source = "tiny-clip"
"""
PAINTER = """
id = "{id}"
title = "Painter"
family = "text2image"
summary = "A test."
license = "CC0"
limits = "All."
source = "nowhere"
modes = ["text2image"]
width = 64
height = 64
size_multiple = 8
min_size = 64
max_size = 256
vae_factor = 8
sampler = "ddim"
samplers = ["ddim"]
steps = 2
guidance_scale = 5.0
"""
RECIPE = """
prompts: {template: "a {size} {colour} circle, on a white background"}
variables:
  size: [small, large]
  colour: [red, blue, green]
sweep:
  guidance_scale: [7.5, 1.5, 4]
"""
KNOWN = 60.0


@dataclass
class Gallery:
    """The command line beside a batch `sweep`, and what is true of each of its pictures."""

    typed: Typed
    folder: Path
    true: list[dict[str, Any]] = field(default_factory=list)


def picture(job: Job) -> tuple[Pixels, bool]:
    """What the prompt says, but at guidance 1.5 a square instead of every circle that isn't red."""
    _, size, colour = job.prompt.split()[:3]
    is_right = job.guidance_scale > 2 or colour == "red"
    shape = Shape("circle" if is_right else "square", colour, 0.5, 0.5, 0.12 if size == "small" else 0.21)  # type: ignore[arg-type]
    return draw_scene(Scene("white", (shape,))), is_right


def finish(gallery: Gallery, lane: LaneId, verdicts: dict[int, str]) -> None:
    """Render the lane by hand; scores are recorded at guidance 7.5, and of another CLIP at 4."""
    engine = connect(gallery.typed.settings.database)
    for job in take(engine, lane):
        pixels, is_right = picture(job)
        body = io.BytesIO()
        Image.fromarray(pixels).save(body, "PNG")
        made = image(
            job,
            key=f"sweep/images/{job.ordinal}.png",
            sha256=hashlib.sha256(body.getvalue()).hexdigest(),
            safety_verdict=verdicts.get(job.ordinal, "safe"),
            safety_reason="test" if job.ordinal in verdicts else None,
            quality={
                7.5: {"clip_score": KNOWN, "clip_model": "tiny-clip"},
                4: {"clip_score": 1.0, "clip_model": "x"},
            }.get(job.guidance_scale),
        )
        path = gallery.folder / "output" / made.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body.getvalue())
        transitions.complete(engine, [made])
        if job.ordinal not in verdicts:
            gallery.true.append(
                {"guidance": job.guidance_scale, "prompt": job.prompt, "pixels": pixels, "right": is_right}
            )
    engine.dispose()


def only_lane(settings: Settings, batch: str) -> LaneId:
    engine = connect(settings.database)
    (row,) = look(
        engine, "SELECT l.id FROM lanes l JOIN batches b ON b.id = batch_id WHERE b.name = :name", name=batch
    )
    engine.dispose()
    return LaneId(row["id"])


@pytest.fixture(scope="module")
def gallery(databases: DatabasePool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    folder = tmp_path_factory.mktemp("gallery")
    with bench(databases, folder) as settings:
        cards = folder / "models" / "cards"
        (cards / "tiny-clip.toml").write_text(CLIP)
        (cards / "shapes-painter.toml").write_text(
            PAINTER.format(id="shapes-painter") + 'clip = "tiny-clip"\n'
        )
        (cards / "plain.toml").write_text(PAINTER.format(id="plain"))
        shutil.copytree(build_clip(tmp_path_factory.mktemp("clip")), folder / "models" / "tiny-clip")
        (folder / "sweep.yaml").write_text(RECIPE)
        made = Gallery(Typed(settings, folder), folder)
        for name, model in (("sweep", "shapes-painter"), ("later", "plain"), ("plain", "plain")):
            ended = made.typed("submit", "sweep.yaml", "--model", model, "--name", name)
            assert ended.code == 0, ended.err
        finish(Gallery(made.typed, folder), only_lane(settings, "plain"), {})
        finish(made, only_lane(settings, "sweep"), {2: "blackened", 3: "flagged"})
        yield made


def scores(gallery: Gallery, guidance: float) -> list[float]:
    cpu: Any = SimpleNamespace(name="cpu", dtype=torch.float32, label="", rows=4)
    scorer = ClipScorer.load(SimpleNamespace(path=gallery.folder / "models" / "tiny-clip"), cpu)  # type: ignore[arg-type]
    these = [each for each in gallery.true if each["guidance"] == guidance]
    return scorer.score([each["pixels"] for each in these], [each["prompt"] for each in these])


def test_a_guidance_sweep(gallery: Gallery) -> None:
    ended = gallery.typed("evaluate", "sweep", "--json")
    assert ended.code == 0, ended.err
    report = ended.json
    assert {
        name: report[name] for name in ("batch", "model", "by", "clip_model", "altered", "remaining")
    } == {
        "batch": "sweep",
        "model": "shapes-painter",
        "by": "guidance_scale",
        "clip_model": "tiny-clip",
        "altered": 1,
        "remaining": 0,
    }
    low, middle, high = report["points"]
    assert [(point["value"], point["n"]) for point in report["points"]] == [(1.5, 6), (4.0, 5), (7.5, 6)]
    assert [point["prompt_match"] for point in report["points"]] == [0.3333, 1.0, 1.0]
    assert low["prompt_match_ci"] == pytest.approx([0.0968, 0.7], abs=1e-3)
    for point, guidance in ((low, 1.5), (middle, 4.0)):
        expected = scores(gallery, guidance)
        mean, error = statistics.mean(expected), statistics.stdev(expected) / len(expected) ** 0.5
        assert point["clip_score"] == pytest.approx(mean, abs=2e-3)
        assert point["clip_score_ci"] == pytest.approx([mean - 1.96 * error, mean + 1.96 * error], abs=2e-3)
    assert (high["clip_score"], high["clip_score_ci"], high["scored"]) == (KNOWN, [KNOWN, KNOWN], 6)
    beside = gallery.folder / "output" / "sweep"
    assert report["figure"] == str(beside / "evaluation.png")
    written = json.loads((beside / "evaluation.json").read_text())
    assert written == {name: report[name] for name in written}
    with Image.open(beside / "evaluation.png") as figure:
        figure.load()
        assert min(figure.size) > 500


def test_by_a_column_of_the_manifest_into_a_folder(gallery: Gallery) -> None:
    ended = gallery.typed("evaluate", "sweep", "--by", "colour", "--to", "figures", "--no-match")
    assert ended.code == 0, ended.err
    assert (gallery.folder / "figures" / "evaluation.png").is_file()
    report = json.loads((gallery.folder / "figures" / "evaluation.json").read_text())
    assert [(point["value"], point["n"]) for point in report["points"]] == [
        ("red", 5),
        ("blue", 6),
        ("green", 6),
    ]
    assert {point["prompt_match"] for point in report["points"]} == {None}
    table = [line.split() for line in ended.out.splitlines()]
    assert [line[0] for line in table[:4]] == ["colour", "red", "blue", "green"]
    assert "1 pictures were blackened or blurred and are left out" in ended.err


def test_one_value_is_a_point(gallery: Gallery) -> None:
    report = gallery.typed("evaluate", "sweep", "--by", "steps", "--json").json
    assert [(point["value"], point["n"]) for point in report["points"]] == [(2, 17)]
    assert report["points"][0]["prompt_match"] == 0.7647


def test_a_model_whose_card_names_no_clip(gallery: Gallery) -> None:
    ended = gallery.typed("evaluate", "plain")
    assert ended.code == 2
    assert "no CLIP is named by the cards of plain: choose one with --model; there are " in ended.err
    assert "tiny-clip" in ended.err
    report = gallery.typed("evaluate", "plain", "--match", "--json").json
    assert (report["clip_model"], report["points"][0]["clip_score"]) == (None, None)
    assert [point["judged"] for point in report["points"]] == [6, 6, 6]
    chosen = gallery.typed("evaluate", "plain", "--model", "tiny-clip", "--json").json
    assert [point["scored"] for point in chosen["points"]] == [6, 6, 6]
    assert {point["judged"] for point in chosen["points"]} == {0}


WRONG = [
    (("nothere",), 2, "no batch 'nothere'"),
    (("later",), 1, "batch later has no images yet: `nightmill status later` tells how far it is"),
    (
        ("sweep", "--by", "guidance"),
        2,
        "--by guidance: the images have no such column; did you mean 'guidance_scale'?",
    ),
    (("sweep", "--by", "colr"), 2, "did you mean 'colour'?"),
    (
        ("sweep", "--model", "shapes-painter"),
        2,
        "--model shapes-painter: is a text2image, not a CLIP; there are ",
    ),
    (("sweep", "--model", "tiny-clp"), 2, "Did you mean 'tiny-clip'?"),
    (("sweep", "--model", "clip-vit-l-14"), 1, "nightmill models pull clip-vit-l-14"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG)
def test_what_is_wrong_is_told(gallery: Gallery, arguments: tuple[str, ...], code: int, message: str) -> None:
    ended: Ended = gallery.typed("evaluate", *arguments)
    assert message in " ".join(ended.err.split())
    assert ended.code == code


def test_without_the_clip_prompts_are_still_judged(gallery: Gallery) -> None:
    clip = gallery.folder / "models" / "tiny-clip"
    clip.rename(clip.with_name("away"))
    try:
        judged = gallery.typed("evaluate", "sweep", "--json")
        refused = gallery.typed("evaluate", "sweep", "--no-match")
    finally:
        clip.with_name("away").rename(clip)
    assert judged.code == 0, judged.err
    assert "no CLIP score: the model 'tiny-clip' is not there" in judged.err
    assert [point["judged"] for point in judged.json["points"]] == [6, 5, 6]
    assert refused.code == 1
    assert "the model 'tiny-clip' is not there" in refused.err


def test_a_picture_that_was_changed_is_no_evidence(gallery: Gallery) -> None:
    path = gallery.folder / "output" / "sweep" / "images" / "1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    changed = gallery.typed("evaluate", "sweep")
    path.unlink()
    missing = gallery.typed("evaluate", "sweep")
    path.write_bytes(whole)
    assert (changed.code, missing.code) == (1, 1)
    assert "1.png: is not the picture that was made (its SHA-256 differs)" in changed.err
    assert "1.png" in missing.err


def point(value: object, n: int = 10, **given: object) -> dict[str, Any]:
    return Point(value).report() | {"n": n} | given  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "points",
    [
        [point(1.5, clip_score=20.0, clip_score_ci=[19.0, 21.0]), point(3, clip_score=None)],
        [point(3, clip_score=20.0, prompt_match=1.0, prompt_match_ci=[0.8, 0.999])],
        [
            point("$x^$", clip_score=20.0),
            point("狐狸 \n" * 30, clip_score=3.0),
            point(None),
            point(True, clip_score=0.0),
        ],
        [point("ddim"), point("")],
    ],
)
def test_any_points_give_a_figure(points: list[dict[str, Any]]) -> None:
    body = draw(points, "$by", "a $ and 狐狸")
    with Image.open(io.BytesIO(body)) as figure:
        figure.load()
        assert figure.format == "PNG"
        assert len(set(figure.convert("L").get_flattened_data())) > 20
    assert draw(points, "$by", "a $ and 狐狸") == body


def test_intervals() -> None:
    """Wilson's for 8 of 10 and for 10 of 10 (Brown, Cai and DasGupta 2001), and the mean's from its standard error."""
    one = Point(1)
    for right in [True] * 8 + [False] * 2:
        one.add_judgement(right)
    assert one.report()["prompt_match_ci"] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    other = Point(1)
    for _ in range(10):
        other.add_judgement(True)
    assert other.report()["prompt_match_ci"] == pytest.approx([0.7225, 1.0], abs=1e-4)
    values = [31.0, 29.5, 30.25, 28.0, 33.125]
    for value in values:
        one.add_score(value)
    error = statistics.stdev(values) / 5**0.5
    assert one.report()["clip_score"] == pytest.approx(statistics.mean(values), abs=1e-3)
    assert one.report()["clip_score_ci"][0] == pytest.approx(statistics.mean(values) - 1.96 * error, abs=1e-3)
    assert Point(1).report()["prompt_match"] is None
