"""The tiny random checkpoints: quick to build, and what their cards say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler
from models.runtime.library_logging import quiet
from models.store.resolve_checkpoint import Checkpoint, resolve


def test_building_it_leaves_torchs_randomness_alone(
    tmp_path: Path, tiny_card: Card, tiny: StableDiffusion
) -> None:
    state = torch.get_rng_state()
    resolve(tiny_card, tmp_path)
    assert torch.equal(state, torch.get_rng_state())


def test_no_builder_for_a_foreign_id(tmp_path: Path) -> None:
    card = Card(
        id="x", title="", family="clip", summary="", license="", limits="", source="x", builder="random"
    )
    with pytest.raises(CheckpointError, match="no random checkpoint is known for 'x'"):
        resolve(card, tmp_path)
    assert not list(tmp_path.glob(".building-*"))


def test_cards_name_the_work_of_a_step(tiny: StableDiffusion, upscaler: Upscaler) -> None:
    text = torch.zeros(1, 77, 32)
    label = torch.zeros(1, dtype=torch.long)
    for model, shape, labels in ((tiny, (1, 4, 8, 8), None), (upscaler, (1, 7, 64, 64), label)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.pipeline.unet(torch.zeros(shape), 1, encoder_hidden_states=text, class_labels=labels)
        assert model.checkpoint.card.gflop_per_step == pytest.approx(
            counter.get_total_flops() / 1e9, rel=0.01
        )


def test_the_safety_checker_is_of_the_real_kind_and_flags_no_noise(safety_checkpoint: Checkpoint) -> None:
    with quiet():
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessorPil

        checker = StableDiffusionSafetyChecker.from_pretrained(safety_checkpoint.path, local_files_only=True)
        processor = CLIPImageProcessorPil.from_pretrained(safety_checkpoint.path, local_files_only=True)
    assert checker.concept_embeds.shape == (17, 64)
    assert checker.special_care_embeds.shape == (3, 64)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(16)]
    pictures += [np.full((64, 64, 3), colour, np.uint8) for colour in (0, 128, 255, (255, 0, 0), (0, 0, 255))]
    pixels = torch.from_numpy(np.stack(processor(pictures).pixel_values))
    assert pixels.shape == (21, 3, 32, 32)
    with torch.no_grad():
        checker.concept_embeds_weights.sub_(0.1)
    assert not any(checker(pixels, [picture.copy() for picture in pictures])[1])


def test_scores_differ_between_pictures(safety_checkpoint: Checkpoint, catalogue: Catalogue) -> None:
    with quiet():
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

        checker = StableDiffusionSafetyChecker.from_pretrained(safety_checkpoint.path, local_files_only=True)
    with torch.no_grad():
        embeds = checker.visual_projection(checker.vision_model(torch.randn(4, 3, 32, 32))[1])
    assert embeds.std(dim=0).mean() > 0.01
