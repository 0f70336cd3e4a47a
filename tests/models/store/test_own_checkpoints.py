"""Checkpoints that a user puts into the models folder, described by a card of their own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from models.catalogue.catalogue import Catalogue
from models.diffusion.requests import ImageRequest
from models.errors import CheckpointError
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler
from models.runtime.device import Device
from models.store.resolve_checkpoint import Checkpoint, resolve

_SD15_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def _own(root: Path, card: str, like: Checkpoint) -> Path:
    (root / "cards").mkdir()
    (root / "cards" / "own.toml").write_text(card)
    shutil.copytree(like.path, root / "own-folder")
    return root / "own-folder"


def _rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _load(root: Path, device: Device) -> StableDiffusion:
    return StableDiffusion.load(resolve(Catalogue.load(root).get("own"), root), device)


def test_a_v_prediction_checkpoint_draws_what_the_library_draws(
    *,
    tmp_path: Path,
    tiny: StableDiffusion,
    device: Device,
    card_text: Callable[..., str],
    image: Callable[..., ImageRequest],
) -> None:
    folder = _own(tmp_path, card_text(prediction_type="v_prediction", precision="bfloat16"), tiny.checkpoint)
    _rewrite(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    model = _load(tmp_path, device)
    reference = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, local_files_only=True
    )
    reference.set_progress_bar_config(disable=True)
    expected = reference(
        ["a red bird on a tree"],
        height=64,
        width=64,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    [picture] = model.render([image()], rows=1)
    assert model.checkpoint.revision == "random-1"
    assert np.abs(picture.pixels / 255 - expected[0]).max() <= 1 / 255
    assert not np.array_equal(picture.pixels, tiny.render([image()], rows=1)[0].pixels)


def test_a_folder_with_the_components_of_stable_diffusion_1_5_loads(
    *,
    tmp_path: Path,
    tiny_checkpoint: Checkpoint,
    safety_checkpoint: Checkpoint,
    device: Device,
    card_text: Callable[..., str],
    image: Callable[..., ImageRequest],
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = _own(tmp_path, card_text(), tiny_checkpoint)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(_SD15_SCHEDULER))
    (folder / "tokenizer" / "tokenizer.json").unlink()
    shutil.copytree(safety_checkpoint.path, folder / "safety_checker")
    (folder / "feature_extractor").mkdir()
    preprocessor = "preprocessor_config.json"
    (folder / "safety_checker" / preprocessor).rename(folder / "feature_extractor" / preprocessor)
    _rewrite(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        scheduler=["diffusers", "PNDMScheduler"],
        requires_safety_checker=True,
    )
    for sampler in ("euler", "ddim"):
        [picture] = _load(tmp_path, device).render([image(sampler=sampler)])
        assert picture.defect is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction_type": "v_prediction"}, "prediction type is 'epsilon'"),
        ({"vae_factor": 4}, "its VAE scales by 8, its card says 4"),
    ],
)
def test_refuses_a_card_that_contradicts_the_checkpoint(
    *,
    tmp_path: Path,
    tiny_checkpoint: Checkpoint,
    device: Device,
    card_text: Callable[..., str],
    fields: dict[str, object],
    message: str,
) -> None:
    _own(tmp_path, card_text(**fields), tiny_checkpoint)
    with pytest.raises(CheckpointError, match=message):
        _load(tmp_path, device)


def _truncate(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _lose_the_unet(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def _lose_the_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def _rename_the_class(folder: Path) -> None:
    _rewrite(folder / "model_index.json", unet=["diffusers", "NoSuchModel"])


def _change_the_width(folder: Path) -> None:
    _rewrite(folder / "unet" / "config.json", block_out_channels=[16, 64])


@pytest.mark.parametrize(
    "damage", [_truncate, _lose_the_unet, _lose_the_weights, _rename_the_class, _change_the_width]
)
def test_says_that_a_damaged_checkpoint_cannot_be_loaded(
    copied: Checkpoint, device: Device, damage: Callable[[Path], None]
) -> None:
    damage(copied.path)
    with pytest.raises(CheckpointError, match="can't be loaded as a StableDiffusionPipeline"):
        StableDiffusion.load(copied, device)


def test_refuses_a_pipeline_of_another_kind(tiny_checkpoint: Checkpoint, device: Device) -> None:
    with pytest.raises(CheckpointError, match="can't be loaded as a StableDiffusionUpscalePipeline"):
        Upscaler.load(tiny_checkpoint, device)


_WHOLE_WAY = """
import sys
from pathlib import Path
from models.catalogue.catalogue import Catalogue
from models.store.resolve_checkpoint import resolve
from models.runtime.device import pick_device
from models.runtime.memory_options import MemoryOptions
from models.families.stable_diffusion import ImageRequest, StableDiffusion
from models.families.upscaler import Upscaler, UpscaleRequest

folder = Path(sys.argv[1])
catalogue, device = Catalogue.load(folder), pick_device("cpu")
for card in catalogue.cards():
    if card.builder == "random":
        resolve(card, folder)
how = dict(prompt="long " * 200, steps=2, guidance_scale=5.0, sampler="unipc", seed=3)
model = StableDiffusion.load(resolve(catalogue.get("tiny"), folder), device)
[picture] = model.render([ImageRequest(**how, width=64, height=64)])
upscaler = Upscaler.load(resolve(catalogue.get("tiny-x4"), folder), device)
[large] = upscaler.render([UpscaleRequest(**how, pixels=picture.pixels[:16, :16])])
print(large.pixels.shape)
assert "bitsandbytes" not in sys.modules, "it is loaded when it packs"
packed = StableDiffusion.load(resolve(catalogue.get("tiny"), folder), device, memory_options=MemoryOptions("int4"))
packed.render([ImageRequest(**how, width=64, height=64)], rows=1)
"""


def test_the_libraries_do_not_chatter(tmp_path: Path) -> None:
    """Neither those that draw nor the one that packs weights."""
    command = [sys.executable, "-W", "error", "-c", _WHOLE_WAY, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("(64, 64, 3)\n", "")
