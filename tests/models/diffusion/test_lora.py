"""LoRAs in three formats, merged by their weights, and the ones that don't fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.catalogue.catalogue import Catalogue
from models.diffusion.loader import load_pipeline
from models.diffusion.lora import load_loras
from models.diffusion.requests import ImageRequest
from models.errors import CheckpointError
from models.families.stable_diffusion import StableDiffusion
from models.runtime.device import Device
from models.store.add import add_model
from models.store.resolve_checkpoint import Checkpoint, resolve

Weights = dict[str, torch.Tensor]

_RANK = 2
_UNET = (".to_q", ".to_v", ".to_out.0", ".proj_in")
_TEXT = (".q_proj", ".out_proj", ".fc1")


@pytest.fixture(scope="module")
def shapes(tiny_checkpoint: Checkpoint, device: Device) -> dict[str, torch.Size]:
    """The layers that the LoRAs of these tests change, by "unet." or "text_encoder." and name."""
    pipeline = load_pipeline(tiny_checkpoint, device, "StableDiffusionPipeline")
    return {
        f"{part}.{name}": module.weight.shape
        for part, ends in (("unet", _UNET), ("text_encoder", _TEXT))
        for name, module in getattr(pipeline, part).named_modules()
        if name.endswith(ends) and module.weight.ndim == 2
    }


def _matrices(shapes: dict[str, torch.Size], seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(_RANK, shape[1], generator=generator) / 4,
            torch.randn(shape[0], _RANK, generator=generator) / 4,
        )
        for name, shape in shapes.items()
    }


def _peft(matrices: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Weights:
    weights: Weights = {}
    for name, (down, up) in matrices.items():
        weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"] = down, up
    return weights


def _old_diffusers(matrices: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Weights:
    weights: Weights = {}
    for name, (down, up) in matrices.items():
        stem, _, end = name.removesuffix(".0").rpartition(".")
        if not name.startswith("unet.") or end == "proj_in":
            continue
        weights[f"{stem}.processor.{end}_lora.down.weight"] = down
        weights[f"{stem}.processor.{end}_lora.up.weight"] = up
    return weights


def _kohya(matrices: dict[str, tuple[torch.Tensor, torch.Tensor]], alpha: float) -> Weights:
    weights: Weights = {}
    for name, (down, up) in matrices.items():
        part, _, layer = name.partition(".")
        prefix = "lora_unet" if part == "unet" else "lora_te_text_model"
        stem = f"{prefix}_{layer.replace('.', '_')}"
        weights[f"{stem}.lora_down.weight"], weights[f"{stem}.lora_up.weight"] = down, up
        weights[f"{stem}.alpha"] = torch.tensor(alpha * (1 if part == "unet" else 3))
    return weights


@pytest.fixture
def lora(tmp_path: Path) -> Callable[..., Checkpoint]:
    """A factory of LoRAs, added as a user adds them."""

    def make(weights: Weights, id: str = "style") -> Checkpoint:
        save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / f"{id}.safetensors")
        path = tmp_path / f"{id}.safetensors"
        add_model(path, id=id, base="tiny", is_lora=True, catalogue=Catalogue.load(tmp_path))
        return resolve(Catalogue.load(tmp_path).get(id), tmp_path)

    return make


def _tensors(pipeline: Any) -> Weights:
    return {
        f"{part}.{name}": value.clone()
        for part in ("unet", "text_encoder")
        for name, value in getattr(pipeline, part).state_dict().items()
    }


@pytest.mark.parametrize("format", ["peft", "old diffusers", "kohya"])
def test_every_format_adds_the_product_of_its_matrices(
    *,
    tiny_checkpoint: Checkpoint,
    device: Device,
    shapes: dict[str, torch.Size],
    lora: Callable[..., Checkpoint],
    format: str,
) -> None:
    matrices = _matrices(shapes, seed=1)
    alpha = 1.0 if format == "kohya" else _RANK
    written = {
        "peft": _peft(matrices),
        "old diffusers": _old_diffusers(matrices),
        "kohya": _kohya(matrices, alpha),
    }[format]
    pipeline = load_pipeline(tiny_checkpoint, device, "StableDiffusionPipeline")
    before = _tensors(pipeline)
    load_loras(pipeline, [(lora(written), 0.5)])
    after = _tensors(pipeline)
    assert after.keys() == before.keys()
    changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    expected = {
        name
        for name in shapes
        if format != "old diffusers" or (name.startswith("unet.") and not name.endswith("proj_in"))
    }
    assert changed == expected
    for name in expected:
        down, up = matrices[name]
        scale = 0.5 * alpha * (3 if format == "kohya" and name.startswith("text") else 1) / _RANK
        difference = after[f"{name}.weight"] - before[f"{name}.weight"]
        torch.testing.assert_close(difference, scale * up @ down, atol=1e-6, rtol=1e-4)


def test_the_weight_says_how_much_and_two_combine(
    *,
    tiny: StableDiffusion,
    tiny_checkpoint: Checkpoint,
    device: Device,
    shapes: dict[str, torch.Size],
    lora: Callable[..., Checkpoint],
    image: Callable[..., ImageRequest],
) -> None:
    first = lora(_peft(_matrices(shapes, seed=1)), "first")
    second = lora(_kohya(_matrices(shapes, seed=2), _RANK), "second")

    def draw(*loras: tuple[Checkpoint, float]) -> np.ndarray[Any, Any]:
        model = StableDiffusion.load(tiny_checkpoint, device, loras=loras) if loras else tiny
        return model.render([image(guidance_scale=1.0)], rows=1)[0].pixels.astype(float)

    def distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
        return float(np.abs(a - b).mean())

    without, half, whole = draw(), draw((first, 0.2)), draw((first, 0.4))
    assert 0 < distance(without, half) < distance(without, whole)
    assert distance(half, whole) < distance(without, whole)
    both = draw((first, 0.4), (second, 0.4))
    assert distance(both, whole) > 0
    assert distance(both, draw((second, 0.4))) > 0
    assert np.array_equal(whole, draw((first, 0.4)))


@pytest.mark.parametrize("write", [_peft, lambda matrices: _kohya(matrices, 1.0)])
def test_refuses_one_that_was_trained_on_another_model(
    *,
    tiny_checkpoint: Checkpoint,
    device: Device,
    shapes: dict[str, torch.Size],
    lora: Callable[..., Checkpoint],
    write: Callable[[dict[str, tuple[torch.Tensor, torch.Tensor]]], Weights],
) -> None:
    wider = {name: torch.Size((2 * shape[0], 2 * shape[1])) for name, shape in shapes.items()}
    elsewhere = {name.replace("attentions.0", "attentions.7"): shape for name, shape in shapes.items()}
    one_too_many = shapes | {"unet.down_blocks.5.attentions.0.proj_in": torch.Size((8, 8))}
    for number, layers in enumerate((wider, elsewhere, one_too_many)):
        checkpoint = lora(write(_matrices(layers, seed=1)), f"style{number}")
        with pytest.raises(
            CheckpointError, match=rf"style{number}.safetensors: .*was it trained on another one"
        ):
            StableDiffusion.load(tiny_checkpoint, device, loras=[(checkpoint, 1.0)])


def test_refuses_other_kinds_than_plain_loras(
    tiny_checkpoint: Checkpoint,
    device: Device,
    shapes: dict[str, torch.Size],
    lora: Callable[..., Checkpoint],
) -> None:
    weights = _peft(_matrices(shapes, seed=1))
    weights["unet.mid_block.attentions.0.proj_in.lora_magnitude_vector"] = torch.ones(32)
    with pytest.raises(CheckpointError, match="it is a DoRA, and only plain LoRAs are read"):
        StableDiffusion.load(tiny_checkpoint, device, loras=[(lora(weights), 1.0)])


def test_it_is_locked_like_a_model(
    tmp_path: Path, shapes: dict[str, torch.Size], lora: Callable[..., Checkpoint]
) -> None:
    lora(_peft(_matrices(shapes, seed=1)))
    weights = load_file(tmp_path / "style.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, tmp_path / "style.safetensors")
    with pytest.raises(CheckpointError, match=r"style.safetensors: has the SHA-256 .* nightmill.lock says"):
        resolve(Catalogue.load(tmp_path).get("style"), tmp_path)


def test_a_model_is_no_lora_and_a_lora_no_model(
    tmp_path: Path, tiny_checkpoint: Checkpoint, shapes: dict[str, torch.Size]
) -> None:
    catalogue = Catalogue.load(tmp_path)
    unet = tiny_checkpoint.path / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match="holds no LoRA weights"):
        add_model(unet, id="a", base="tiny", is_lora=True, catalogue=catalogue)
    save_file(_peft(_matrices(shapes, seed=1)), tmp_path / "style.safetensors")
    with pytest.raises(CheckpointError, match="add it with --lora"):
        add_model(tmp_path / "style.safetensors", id="b", base="tiny", is_lora=False, catalogue=catalogue)
    assert catalogue.models_dir == tmp_path
    assert not (tmp_path / "cards").exists()
