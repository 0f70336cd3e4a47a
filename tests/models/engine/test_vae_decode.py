"""Decoding in slices and attention in chunks change nothing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from models.diffusion.vae_attention import ChunkedAttention
from models.engine import vae_decode as decoding
from models.engine.vae_decode import Decoder
from models.families.stable_diffusion import StableDiffusion
from models.runtime.compiled_group_norm import order_norms
from models.runtime.device import Device
from models.store.resolve_checkpoint import Checkpoint


def _latents(rows: int) -> torch.Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_large_pictures_are_decoded_by_fewer(tiny: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, latents = Decoder(tiny.pipeline.vae, torch.float32), _latents(6)
    with torch.inference_mode():
        whole = [picture.pixels for picture in decoder.decode(list(latents), at_once=6)]
        monkeypatch.setattr(decoding, "PIXELS_AT_ONCE", 4 * 64 * 64)
        forth = [picture.pixels for picture in decoder.decode(list(latents), at_once=6)]
        back = [picture.pixels for picture in decoder.decode(list(latents.flip(0)), at_once=6)][::-1]
    assert np.array_equal(forth, back)
    assert np.abs(np.stack(whole).astype(int) - np.stack(forth)).max() <= 1


@pytest.mark.parametrize("arrange", [lambda _: None, order_norms])
def test_what_half_precision_cannot_hold_is_decoded_again(
    tiny_checkpoint: Checkpoint, device: Device, arrange: Callable[[torch.nn.Module], None]
) -> None:
    """A VAE in float32 beside a UNet in float16, as Stable Diffusion 1.x is loaded."""
    latents = list(_latents(5))
    latents[1], latents[4] = latents[1] * 1e5, latents[4] * torch.nan
    vae = StableDiffusion.load(tiny_checkpoint, device).pipeline.vae
    arrange(vae)
    with torch.inference_mode():
        whole = Decoder(vae, torch.float32).decode(latents, at_once=1)
        half = Decoder(vae, torch.float16).decode(latents, at_once=2)
    assert (
        [picture.defect for picture in whole] == [picture.defect for picture in half] == [None] * 4 + ["nan"]
    )
    assert vae.dtype == torch.float32
    assert np.array_equal(whole[1].pixels, half[1].pixels)
    others = [np.abs(whole[n].pixels.astype(int) - half[n].pixels) for n in (0, 2, 3)]
    assert 0 < np.max(others) <= 2


@pytest.mark.parametrize("scores", [2**28, 1000, 1])
def test_chunked_attention_is_exact(tiny: StableDiffusion, scores: int) -> None:
    [attention] = tiny.pipeline.vae.decoder.mid_block.attentions
    hidden = torch.randn(2, 16, 6, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        chunked = ChunkedAttention(scores)(attention, hidden)
        whole = AttnProcessor2_0()(attention, hidden)
    assert torch.allclose(chunked, whole, atol=1e-5)
