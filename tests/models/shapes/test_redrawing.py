"""What the decoder is trained by: true pictures as the finished model draws them to the end."""

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from models.shapes.prompt_match import judge
from models.shapes.training.data import sample
from models.shapes.training.networks.autoencoder import signed
from models.shapes.training.networks.denoiser import Denoiser
from models.shapes.training.sdedit_latents import Redrawing
from tests.paths import ROOT

WEIGHTS = ROOT / "models" / "shapes" / "weights" / "shapes"
CPU = torch.device("cpu")


def test_pictures_drawn_anew_are_others_that_show_the_same() -> None:
    model = Denoiser(
        UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", torch_dtype=torch.float32),
        CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder", dtype=torch.float32),
    )
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae", torch_dtype=torch.float32)
    samples = sample(np.random.default_rng(1), 48, detail=1.0)
    torch.manual_seed(1)
    with torch.no_grad():
        latents = vae.encode(signed(samples.pixels, CPU)).latent_dist.mean * vae.config.scaling_factor
        redraw = Redrawing(model, CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer"), CPU)
        drawn = redraw(latents, samples.captions)
        decoded = vae.decode(drawn / vae.config.scaling_factor).sample
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    shown = [
        judge(caption, picture) is True for caption, picture in zip(samples.captions, pixels, strict=True)
    ]
    assert np.mean(shown) >= 0.8
    assert (drawn - latents).square().mean() > 0.01
