"""Every system of the package's cards, small and random but of its own classes, as a worker loads and runs it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.assess.safety_checker import SafetyChecker
from models.catalogue.catalogue import Catalogue
from models.diffusion.requests import ImageRequest
from models.engine.rendered_image import RenderedImage
from models.errors import CheckpointError
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler, UpscaleRequest
from models.runtime.device import Device, pick_device
from models.runtime.library_logging import quiet
from models.store.resolve_checkpoint import Checkpoint, resolve
from tests.models import checkpoints

_SYSTEM_OF = {
    **{f"sd-v1-{number}": "v1" for number in range(1, 6)},
    "sd-2-base": "v2-base",
    "sd-2-1-base": "v2-base",
    "sd-2": "v2",
    "sd-2-1": "v2",
    "sd-v1-5-inpainting": "v1-inpainting",
    "sd-2-inpainting": "v2-inpainting",
    "sd-2-depth": "v2-depth",
    "sd-x4-upscaler": "x4",
}
_RNG = np.random.default_rng(0)
_IMAGE = _RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
_MASK = np.repeat(np.uint8([0, 255]), 32)[None].repeat(64, axis=0)
_DEPTH = _RNG.random((64, 64), dtype=np.float32)
_GIVEN: dict[str, list[dict[str, Any]]] = {
    "text2image": [{}],
    "image2image": [{"image": _IMAGE, "strength": 0.7}],
    "inpaint": [{"image": _IMAGE, "mask": _MASK}, {"image": _IMAGE, "mask": _MASK, "strength": 0.7}],
    "depth": [{"image": _IMAGE, "strength": 0.7}, {"depth": _DEPTH}, {"image": _IMAGE, "depth": _DEPTH}],
}


@pytest.fixture(scope="module")
def checkpoint(models_dir: Path, catalogue: Catalogue) -> Callable[[str], Checkpoint]:
    def place(card_id: str) -> Checkpoint:
        card = catalogue.get(card_id)
        if not (models_dir / card.source).is_dir():
            built = checkpoints.checkpoint(_SYSTEM_OF[card_id], models_dir)
            shutil.copytree(built.path, models_dir / card.source)
        return resolve(card, models_dir)

    return place


def _draw(model: StableDiffusion | Upscaler, sampler: str) -> list[RenderedImage]:
    """A picture or more in every mode that the card promises."""
    how: dict[str, Any] = {
        "prompt": "a red bird",
        "steps": 3,
        "guidance_scale": 5.0,
        "sampler": sampler,
        "seed": 1,
    }
    if isinstance(model, Upscaler):
        return model.render([UpscaleRequest(pixels=_IMAGE[:16, :24], **how)], rows=1)
    return [
        model.render([ImageRequest(width=64, height=64, **how, **given)], rows=1)[0]
        for mode in model.checkpoint.card.modes
        for given in _GIVEN[mode]
    ]


def _load(checkpoint: Checkpoint, device: Device) -> StableDiffusion | Upscaler:
    return (Upscaler if checkpoint.card.family == "upscaler" else StableDiffusion).load(checkpoint, device)


def test_every_card_of_a_system_is_tried(catalogue: Catalogue) -> None:
    cards = [card for card in catalogue.cards() if card.id.startswith("sd-")]
    assert {card.id for card in cards} == {*_SYSTEM_OF, "sd-safety-checker"}
    for card in cards:
        if card.id in _SYSTEM_OF:
            assert set(card.modes) == set(checkpoints.SYSTEMS[_SYSTEM_OF[card.id]]), card.id


@pytest.mark.parametrize("card_id", _SYSTEM_OF)
def test_a_system_serves_its_modes(
    checkpoint: Callable[[str], Checkpoint], card_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = checkpoint(card_id)
    pictures = _draw(_load(found, pick_device("cpu", precision=found.card.precision)), found.card.sampler)
    size = (64, 96, 3) if found.card.family == "upscaler" else (64, 64, 3)
    for picture in pictures:
        assert picture.pixels.shape == size
        assert picture.defect is None
        assert picture.pixels.std() > 10
    assert len({picture.pixels.tobytes() for picture in pictures}) == len(pictures)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "card_id", ["sd-v1-5", "sd-2-base", "sd-2-1", "sd-2-inpainting", "sd-2-depth", "sd-x4-upscaler"]
)
def test_a_system_draws_nearly_the_same_in_its_own_precision(
    checkpoint: Callable[[str], Checkpoint], device: Device, card_id: str
) -> None:
    found = checkpoint(card_id)
    half = Device("cpu", getattr(torch, found.card.precision), "a CPU that computes as a GPU would", rows=1)
    assert half.dtype != torch.float32
    for drawn, full in zip(
        _draw(_load(found, half), "euler"), _draw(_load(found, device), "euler"), strict=True
    ):
        assert drawn.defect is None
        assert np.abs(drawn.pixels.astype(int) - full.pixels).mean() < 3


def test_a_vae_with_the_old_names_of_its_attention_is_the_same(
    checkpoint: Callable[[str], Checkpoint], device: Device, tmp_path: Path
) -> None:
    """As the published checkpoints have them."""
    found = checkpoint("sd-v1-4")
    folder = shutil.copytree(found.path, tmp_path / "old")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        weights = {
            name.replace(f"attentions.0.{new}", f"attentions.0.{old}"): weights[name] for name in weights
        }
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in weights
    save_file(weights, file)
    drawn = _draw(_load(replace(found, path=folder), device), "pndm")
    for picture, expected in zip(drawn, _draw(_load(found, device), "pndm"), strict=True):
        assert np.array_equal(picture.pixels, expected.pixels)


def test_the_upscaler_draws_what_the_library_draws(
    checkpoint: Callable[[str], Checkpoint], device: Device
) -> None:
    found = checkpoint("sd-x4-upscaler")
    with quiet():
        reference = diffusers.StableDiffusionUpscalePipeline.from_pretrained(
            found.path, local_files_only=True
        )
    reference.set_progress_bar_config(disable=True)
    small = _IMAGE[:16, :24]
    expected = reference(
        "a red bird",
        image=torch.from_numpy(small)[None].permute(0, 3, 1, 2) / 255,
        num_inference_steps=3,
        guidance_scale=5.0,
        noise_level=350,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    request = UpscaleRequest(
        pixels=small,
        prompt="a red bird",
        noise_level=350,
        steps=3,
        guidance_scale=5.0,
        sampler="ddim",
        seed=1,
    )
    [picture] = Upscaler.load(found, device).render([request], rows=1)
    assert np.abs(picture.pixels / 255 - expected).max() <= 1 / 255


def test_the_safety_checker_of_a_v1_checkpoint_scores(
    checkpoint: Callable[[str], Checkpoint], models_dir: Path, catalogue: Catalogue, device: Device
) -> None:
    card = catalogue.get("sd-safety-checker")
    for part in ("safety_checker", "feature_extractor"):
        shutil.copytree(checkpoint("sd-v1-5").path / part, models_dir / card.source, dirs_exist_ok=True)
    [scores] = SafetyChecker.load(resolve(card, models_dir), device).score([_IMAGE])
    assert (len(scores.concepts), len(scores.special_care)) == (17, 3)


def test_refuses_a_card_that_promises_what_the_unet_cannot(
    checkpoint: Callable[[str], Checkpoint], device: Device
) -> None:
    found = checkpoint("sd-2-inpainting")
    wrong = replace(found, card=found.card.model_copy(update={"modes": ("text2image",)}))
    with pytest.raises(CheckpointError, match="it takes 9 channels, with which there is no text2image"):
        StableDiffusion.load(wrong, device)
