"""Prompts as the UNet reads them."""

import itertools

import torch

from models.families.stable_diffusion import StableDiffusion
from models.runtime.device import Device
from models.store.resolve_checkpoint import Checkpoint


@torch.inference_mode()
def test_an_embedding_does_not_depend_on_its_place_and_neighbours(
    tiny_checkpoint: Checkpoint, device: Device
) -> None:
    embeddings = StableDiffusion.load(tiny_checkpoint, device).networks.embeddings
    prompts = ["a red fox", "", "🦊 two foxes at night", "many " * 100]
    known = dict(zip(prompts, embeddings.embed(prompts), strict=True))
    for order in itertools.permutations(prompts):
        embeddings.forget()
        assert all(map(torch.equal, embeddings.embed(order), map(known.get, order)))
    for prompt in prompts:
        embeddings.forget()
        assert torch.equal(embeddings.embed([prompt])[0], known[prompt])
