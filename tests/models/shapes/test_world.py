"""The world of shapes: what is drawn, what is said of it, and what is read back agree."""

from dataclasses import replace

import numpy as np
import pytest

from models.shapes.drawing import coverage, draw
from models.shapes.grammar import caption, parse
from models.shapes.prompt_match import judge, shows
from models.shapes.reading import read
from models.shapes.training.data import sample, wrong
from models.shapes.world import KINDS, PALETTE, Scene, Shape, random_scene

SCENES = 150


@pytest.mark.parametrize("side", [64, 256])
def test_what_is_drawn_is_read_back(side: int) -> None:
    rng = np.random.default_rng(side)
    for _ in range(SCENES):
        scene = random_scene(rng)[0]
        found = read(draw(scene, side))
        assert found is not None
        assert found.background == scene.background
        assert {(s.kind, s.colour, s.size) for s in found.shapes} == {
            (s.kind, s.colour, s.size) for s in scene.shapes
        }
        for shape in scene.shapes:
            twin = next(one for one in found.shapes if one.colour == shape.colour)
            assert abs(twin.x - shape.x) < 0.02
            assert abs(twin.y - shape.y) < 0.02


def test_every_true_caption_is_understood_and_judged_true() -> None:
    rng = np.random.default_rng(1)
    for _ in range(SCENES):
        said = random_scene(rng)
        text = caption(*said, rng, detail=1.0)
        request = parse(text)
        assert request is not None, text
        assert shows(said[0], request), text
        assert judge(text, draw(said[0])) is True, text


def test_a_caption_wrong_in_one_word_is_judged_false() -> None:
    rng = np.random.default_rng(2)
    samples = sample(rng, SCENES, detail=1.0)
    for text, pixels in zip(samples.captions, samples.pixels, strict=True):
        changed = wrong(text, rng)
        assert changed != text
        assert judge(changed, pixels) is False, f"{text} -> {changed}"


@pytest.mark.parametrize(
    "prompt",
    ["a photo of a cat", "a red circle and a blue square and a green cross", "", "red", "a cyan circle"],
)
def test_what_is_no_sentence_of_the_grammar_has_no_verdict(prompt: str) -> None:
    assert judge(prompt, draw(random_scene(np.random.default_rng(3))[0])) is None


@pytest.mark.parametrize(
    "prompt", ["A red circle.", "red circle", "  a  RED circle , on a grey background ", "the red circle"]
)
def test_prompts_are_read_as_people_write_them(prompt: str) -> None:
    scene = Scene("gray", (Shape("circle", "red", 0.5, 0.5, 0.2),))
    assert judge(prompt.replace(" ,", ","), draw(scene)) is True


def test_the_subject_of_a_relation_matters() -> None:
    pixels = draw(
        Scene("white", (Shape("circle", "red", 0.5, 0.25, 0.12), Shape("square", "blue", 0.5, 0.7, 0.21)))
    )
    assert judge("a small red circle on top of a large blue square, on a white background", pixels) is True
    assert judge("a large blue square on top of a small red circle", pixels) is False
    assert judge("a large blue square below a red circle", pixels) is True
    assert judge("a blue square and a red circle", pixels) is True
    assert judge("a red circle", pixels) is False


def test_what_is_no_scene_is_not_taken_for_one() -> None:
    rng = np.random.default_rng(4)
    assert read(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) is None
    assert read(np.full((64, 64, 3), PALETTE["gray"], dtype=np.uint8)) is None
    bar = draw(Scene("white", ()))
    bar[30:34, 5:60] = PALETTE["red"]
    assert read(bar) is None


def test_noise_and_blur_leave_the_reading() -> None:
    rng = np.random.default_rng(5)
    samples = sample(rng, SCENES, detail=1.0)
    noisy = np.clip(samples.pixels + rng.normal(0, 8, samples.pixels.shape), 0, 255).astype(np.uint8)
    right = sum(judge(text, pixels) is True for text, pixels in zip(samples.captions, noisy, strict=True))
    assert right >= 0.98 * SCENES


@pytest.mark.parametrize("kind", KINDS)
def test_coverage_is_that_of_the_shape(kind: str) -> None:
    small, large = (float(coverage(kind, 0.5, 0.5, 0.25, side).mean()) for side in (64, 512))  # type: ignore[arg-type]
    assert small == pytest.approx(large, abs=0.003)
    moved = coverage(kind, 0.5 + 1 / 64, 0.5, 0.25, 64)  # type: ignore[arg-type]
    assert np.array_equal(moved[:, 1:], coverage(kind, 0.5, 0.5, 0.25, 64)[:, :-1])  # type: ignore[arg-type]


def test_scenes_lie_within_the_picture_and_apart() -> None:
    rng = np.random.default_rng(6)
    for _ in range(SCENES):
        shapes = random_scene(rng)[0].shapes
        for shape in shapes:
            assert shape.radius <= min(shape.x, shape.y, 1 - shape.x, 1 - shape.y)
        if len(shapes) == 2:
            one, other = shapes
            apart = max(abs(one.x - other.x), abs(one.y - other.y))
            assert apart >= one.radius + other.radius + 0.04
            assert one.colour != other.colour
            assert replace(one, colour=other.colour) != other


@pytest.mark.parametrize("pairs", [0.0, 0.5, 0.75, 1.0])
def test_as_many_scenes_have_two_shapes_as_are_asked_for(pairs: float) -> None:
    rng = np.random.default_rng(11)
    two = [len(random_scene(rng, pairs)[0].shapes) == 2 for _ in range(1000)]
    assert np.mean(two) == pytest.approx(pairs, abs=0.06)
