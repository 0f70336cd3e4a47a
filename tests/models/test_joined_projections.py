"""Query, key and value by one product: the same pictures, in no more memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from models.checkpoint import Checkpoint
from models.joined_projections import JoinedSelfAttention, join_projections
from models.saving import Saving
from models.stable_diffusion import StableDiffusion
from tests.models import checkpoints


def _bytes(unet: Any) -> int:
    tensors = [*unet.parameters(), *unet.buffers()]
    return sum(
        {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values()
    )


@pytest.mark.parametrize("system", ["v1", "v2", "x4"])
def test_the_unet_computes_the_same(models_dir: Any, system: str) -> None:
    from diffusers import UNet2DConditionModel

    path = checkpoints.checkpoint(system, models_dir).path
    unet = UNet2DConditionModel.from_pretrained(path / "unet", local_files_only=True)
    sample = torch.randn(2, unet.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    text = torch.randn(2, 7, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
    given = {"encoder_hidden_states": text, "class_labels": torch.tensor([3, 20]) if system == "x4" else None}
    with torch.inference_mode():
        expected, before = unet(sample, torch.tensor([500.0, 3.0]), **given).sample, _bytes(unet)
        join_projections(unet)
        found = unet(sample, torch.tensor([500.0, 3.0]), **given).sample
    joined = [type(each) is JoinedSelfAttention for each in unet.attn_processors.values()]
    assert any(joined)
    assert not all(joined), "cross-attentions read two things"
    assert _bytes(unet) == before
    assert torch.allclose(found, expected, atol=1e-5)


def test_weights_in_fewer_bits_stay_as_they_are(
    tiny_checkpoint: Checkpoint, device: Any, image: Callable[..., Any]
) -> None:
    model = StableDiffusion.load(tiny_checkpoint, device, saving=Saving("fp8"))
    (expected,) = model.render([image()])
    join_projections(model._pipeline.unet)
    (found,) = model.render([image()])
    assert (found.pixels == expected.pixels).all()
