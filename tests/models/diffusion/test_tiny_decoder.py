"""Small decoders: what they make of latents, in any company, and which ones are refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.catalogue.catalogue import Catalogue
from models.diffusion.requests import ImageRequest
from models.diffusion.tiny_decoder import SmallDecoder
from models.errors import CheckpointError
from models.families.stable_diffusion import StableDiffusion
from models.runtime.device import Device
from models.runtime.library_logging import quiet
from models.store.resolve_checkpoint import Checkpoint, resolve


@pytest.fixture(scope="module")
def checkpoint(catalogue: Catalogue, models_dir: Path) -> Checkpoint:
    return resolve(catalogue.get("tiny-random-decoder"), models_dir)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_draws_what_diffusers_draws_with_it(
    tiny: StableDiffusion, checkpoint: Checkpoint, device: Device, image: Callable[..., ImageRequest]
) -> None:
    request = image(sampler="ddim")
    with quiet():
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            tiny.checkpoint.path,
            vae=diffusers.AutoencoderTiny.from_pretrained(checkpoint.path, local_files_only=True),
            safety_checker=None,
            requires_safety_checker=False,
            local_files_only=True,
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    generator = torch.Generator().manual_seed(request.seed)
    expected = pipeline(
        request.prompt,
        width=64,
        height=64,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=generator,
        output_type="np",
    ).images[0]
    decoder = SmallDecoder.load(checkpoint, device, vae_factor=8)
    ((small,), (full,)) = (tiny.render([request], rows=1, decoder=given) for given in (decoder, None))
    assert small.defect is None
    assert np.abs(small.pixels - 255 * expected).max() <= 1
    assert np.abs(small.pixels.astype(int) - full.pixels).mean() > 2


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.usefixtures("threads")
def test_rows_are_the_same_anywhere(checkpoint: Checkpoint, device: Device, side: int) -> None:
    torch.set_num_threads(3)
    network = SmallDecoder.load(checkpoint, device, vae_factor=8).network
    latents = 3 * torch.randn(5, 4, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        drawn = [network.decode(latents.roll(place, 0)).sample[place] for place in range(5)]
    assert all(torch.equal(one, drawn[0]) for one in drawn)


def test_one_for_other_latents_is_refused(checkpoint: Checkpoint, device: Device) -> None:
    with pytest.raises(CheckpointError, match="it scales by 8, the VAE that it stands for by 4"):
        SmallDecoder.load(checkpoint, device, vae_factor=4)


def test_one_that_lacks_weights_is_refused(checkpoint: Checkpoint, device: Device, tmp_path: Path) -> None:
    damaged = _copy(checkpoint, tmp_path)
    file = damaged.path / "diffusion_pytorch_model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if name != "decoder.layers.0.weight"}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, among them decoder\.layers\.0\.weight"):
        SmallDecoder.load(damaged, device, vae_factor=8)


def test_one_of_another_kind_is_refused(checkpoint: Checkpoint, device: Device, tmp_path: Path) -> None:
    damaged = _copy(checkpoint, tmp_path)
    config = json.loads((damaged.path / "config.json").read_text())
    (damaged.path / "config.json").write_text(json.dumps(config | {"num_decoder_blocks": [1]}))
    with pytest.raises(CheckpointError, match="can't be loaded as an AutoencoderTiny"):
        SmallDecoder.load(damaged, device, vae_factor=8)


def _copy(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    shutil.copytree(checkpoint.path, folder / "decoder")
    return Checkpoint(checkpoint.card, folder / "decoder", checkpoint.revision, checkpoint.digest)
