"""What a request may give beside its prompt, what it may not, and what that does to the picture."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.diffusion.requests import ImageRequest
from models.families.stable_diffusion import StableDiffusion
from models.runtime.device import Device
from tests.models import checkpoints

Make = Callable[..., ImageRequest]

_RNG = np.random.default_rng(0)
_IMAGES = _RNG.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
_MASKS = np.zeros((4, 64, 64), np.uint8)
_MASKS[:, 16:56, 20:] = 255
_IMAGE, _MASK = _IMAGES[0], _MASKS[0]
_DEPTH = _RNG.random((64, 64), dtype=np.float32)


def test_depth_alone_draws_from_noise(load: Callable[[str], StableDiffusion], image: Make) -> None:
    near, far = np.tile(np.linspace(0, 9, 64, dtype=np.float32), (2, 64, 1))
    far = far[:, ::-1].copy()
    requests = [
        image(depth=near),
        image(depth=near * 100 - 3, strength=0.5),
        image(depth=far),
        image(depth=np.full((64, 64), 5, np.float32)),
    ]
    ramp, scaled, other, flat = load("v2-depth").render(requests, rows=4)
    assert ramp.defect is None
    assert flat.defect is None
    assert np.abs(ramp.pixels.astype(int) - scaled.pixels).max() <= 1, "only the order of depths counts"
    assert np.abs(ramp.pixels.astype(int) - other.pixels).mean() > 0.5


@pytest.mark.parametrize(
    ("system", "names"), [("v1", ["image"]), ("v2-inpainting", ["image", "mask"]), ("v2-depth", ["image"])]
)
def test_a_picture_does_not_depend_on_its_neighbours(
    load: Callable[[str], StableDiffusion], image: Make, system: str, names: list[str]
) -> None:
    model = load(system)
    arrays = {"image": _IMAGES, "mask": _MASKS}

    def make(number: int) -> ImageRequest:
        given = {name: arrays[name][number % 4] for name in names}
        return image(prompt=f"dog {number}", seed=number, sampler="euler_a", strength=0.7, **given)

    wanted, *others = [make(number) for number in range(7)]
    mixes = [[wanted], [wanted, *others[:3]], [*others[:3], wanted], [*others, wanted], [others[5], wanted]]
    pictures = [model.render(mix)[mix.index(wanted)].pixels for mix in mixes]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures[1:])


@pytest.mark.parametrize("rows", [1, 3])
def test_another_batch_shape_changes_a_grey_level_at_most(
    load: Callable[[str], StableDiffusion], image: Make, rows: int
) -> None:
    requests = [
        image(image=picture, mask=mask, seed=seed, sampler="euler_a")
        for seed, (picture, mask) in enumerate(zip(_IMAGES, _MASKS, strict=True))
    ]
    usual, others = (load("v2-inpainting").render(requests, rows=number) for number in (4, rows))
    for picture, other in zip(usual, others, strict=True):
        assert np.abs(picture.pixels.astype(int) - other.pixels).max() <= 1


@pytest.mark.parametrize(
    ("system", "given", "message"),
    [
        ("v1", {"image": _IMAGE, "mask": _MASK}, "'v1' takes no mask"),
        ("v1", {"depth": _DEPTH}, "'v1' takes no depth map"),
        ("v1-inpainting", {}, "'v1-inpainting' repaints pictures: give it an image and a mask"),
        ("v1-inpainting", {"image": _IMAGE}, "give it an image and a mask"),
        ("v1-inpainting", {"image": _IMAGE, "mask": _MASK, "depth": _DEPTH}, "takes no depth map"),
        ("v2-depth", {}, "'v2-depth' draws from depth"),
        ("v2-depth", {"image": _IMAGE, "mask": _MASK}, "takes no mask"),
        ("v1", {"image": _IMAGE[:32]}, r"image must be \(64, 64, 3\) uint8, not \(32, 64, 3\) uint8"),
        ("v1", {"image": _IMAGE / 255}, r"not \(64, 64, 3\) float64"),
        ("v1-inpainting", {"image": _IMAGE, "mask": _IMAGE}, r"mask must be \(64, 64\) uint8"),
        ("v2-depth", {"depth": _DEPTH.astype(float)}, r"depth must be \(64, 64\) float32"),
        ("v2-depth", {"depth": _DEPTH * np.float32("inf")}, "depth holds values that are not finite"),
        (
            "v1",
            {"image": _IMAGE, "strength": 0.3},
            "strength 0.3 leaves no step of 3: it must be 0.3333 or more",
        ),
        ("v1", {"image": _IMAGE, "strength": 0.0}, "strength must be above 0 and at most 1, not 0"),
        ("v1", {"image": _IMAGE, "strength": 1.01}, "not 1.01"),
    ],
)
def test_refuses_what_the_model_does_not_take(
    load: Callable[[str], StableDiffusion], image: Make, system: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(system).render([image(**given)])


def test_a_depth_model_without_an_estimator_needs_maps(
    models_dir: Path, tmp_path: Path, device: Device, image: Make
) -> None:
    found = checkpoints.checkpoint("v2-depth", models_dir)
    folder = shutil.copytree(found.path, tmp_path / "depth", ignore=shutil.ignore_patterns("depth_estimator"))
    model = StableDiffusion.load(replace(found, path=folder), device)
    with pytest.raises(ValueError, match="its checkpoint has no depth estimator to make one: give a map"):
        model.render([image(image=_IMAGE)])
    assert model.render([image(image=_IMAGE, depth=_DEPTH)], rows=1)[0].defect is None


def test_a_depth_model_of_an_older_library_loads(
    load: Callable[[str], StableDiffusion], tmp_path: Path, device: Device, image: Make
) -> None:
    """The published one names a class that transformers no longer has."""
    model = load("v2-depth")
    folder = shutil.copytree(model.checkpoint.path, tmp_path / "depth")
    for file, change in (
        ("model_index.json", {"feature_extractor": ["transformers", "DPTFeatureExtractor"]}),
        ("feature_extractor/preprocessor_config.json", {"image_processor_type": "DPTFeatureExtractor"}),
    ):
        fields = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(fields | change))
    older = StableDiffusion.load(replace(model.checkpoint, path=folder), device)
    [drawn], [expected] = (each.render([image(image=_IMAGE)], rows=1) for each in (older, model))
    assert np.array_equal(drawn.pixels, expected.pixels)


def test_starts_from_noise_and_from_pictures_stand_beside_each_other(
    load: Callable[[str], StableDiffusion], image: Make
) -> None:
    requests = [
        image(image=_IMAGE),
        image(image=_IMAGE, strength=0.6, sampler="heun"),
        image(seed=9, guidance_scale=1.0, steps=7),
        image(image=_IMAGES[1], strength=1.0, sampler="unipc", steps=5),
        image(image=_IMAGES[2], strength=0.5, sampler="pndm", steps=9),
    ]
    together = load("v1").render(requests, rows=2)
    for request, picture in zip(requests, together, strict=True):
        [alone] = load("v1").render([request], rows=2)
        assert np.array_equal(picture.pixels, alone.pixels)
