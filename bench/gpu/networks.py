"""Networks of an architecture with random weights, and their FLOP."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu.architectures import VOCABULARY, Architecture
from bench.harness.unet_flops import TOKENS, Work, count_work
from models.engine.schedulers import make_scheduler, noise_schedule
from models.runtime.library_logging import quiet
from models.tiny_random.tokenizer import build_tokenizer


@dataclass(frozen=True)
class Cost:
    """The FLOP of the UNet, and of decoding one image."""

    unet: Work
    decode: int

    def image(self, architecture: Architecture) -> int:
        """Return the FLOP of an image with guidance, as nightmill computes it, without the text encoder."""
        steps = make_scheduler(architecture.sampler, _noise(architecture), architecture.steps)
        return self.unet.step(architecture.guidance_scale) * len(steps.timesteps) + self.decode


def pipeline_of(architecture: Architecture, device: str, dtype: torch.dtype) -> Any:
    """Return a diffusers pipeline with random weights on the device and the architecture's scheduler."""
    with quiet():
        import diffusers  # noqa: PLC0415 - its pipelines log when they are imported

        parts = {
            "unet": unet_of(architecture, device, dtype),
            "vae": vae_of(architecture, device, dtype),
            "text_encoder": text_encoder_of(architecture, device, dtype),
            "tokenizer": _tokenizer(),
            "scheduler": make_scheduler(architecture.sampler, _noise(architecture)),
        }
        _widen(parts["vae"])
        if architecture.is_upscaler:
            low_res = diffusers.DDPMScheduler(
                beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear", clip_sample=True
            )
            return diffusers.StableDiffusionUpscalePipeline(
                **parts, low_res_scheduler=low_res, max_noise_level=350
            )
        left_out = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return diffusers.StableDiffusionPipeline(**parts, **left_out)


def unet_of(architecture: Architecture, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return the UNet with torch's default random weights, which keep values small in half precision."""
    from diffusers import UNet2DConditionModel  # noqa: PLC0415

    with _built_on(device, dtype):
        return UNet2DConditionModel(**architecture.unet).eval()


def vae_of(architecture: Architecture, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return the VAE."""
    from diffusers import AutoencoderKL  # noqa: PLC0415

    with _built_on(device, dtype):
        return AutoencoderKL(**architecture.vae).eval()


def text_encoder_of(architecture: Architecture, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return the text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    config = CLIPTextConfig(vocab_size=VOCABULARY, **architecture.text)
    with _built_on(device, dtype):
        return CLIPTextModel(config).eval()


def cost_of(architecture: Architecture) -> Cost:
    """Count FLOP on meta tensors."""
    side, unet, vae = architecture.latent_side, unet_of(architecture, "meta"), vae_of(architecture, "meta")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as decoded:
        vae.decode(torch.empty(1, vae.config.latent_channels, side, side))
    return Cost(count_work(unet, side), decoded.get_total_flops())


@contextmanager
def _built_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Build modules in this block on the device, in that dtype, with the same weights every time."""
    before = torch.get_default_dtype()
    torch.manual_seed(1)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _noise(architecture: Architecture) -> dict[str, Any]:
    return dict(noise_schedule(architecture.prediction_type).config)


def _tokenizer() -> Any:
    with TemporaryDirectory() as folder:
        return build_tokenizer(Path(folder), limit=TOKENS)


@torch.no_grad()
def _widen(vae: Any) -> None:
    """Scale the last convolution, so that images span all grey levels: flat ones would hide differences."""
    latents = torch.randn(1, vae.config.latent_channels, 8, 8).to(vae.device, vae.dtype)
    image = vae.decode(latents, return_dict=False)[0].float()
    last = vae.decoder.conv_out
    middle = image.mean(dim=(0, 2, 3))
    gain = 0.5 / float(image.std(dim=(2, 3)).mean())
    last.weight.mul_(gain)
    last.bias.sub_(middle.to(last.bias.dtype)).mul_(gain)
