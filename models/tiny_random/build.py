"""Build tiny checkpoints with random weights in diffusers format, for tests; their pictures are noise."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from models.catalogue.card import Card
from models.engine.schedulers import noise_schedule
from models.errors import CheckpointError
from models.runtime.library_logging import quiet
from models.tiny_random.tokenizer import END, START, build_tokenizer
from models.tiny_random.weights import fill

REVISION = "random-1"

_WIDTH = 32
_SAFETY_PIXELS = 32


def build(card: Card, folder: Path) -> None:
    """Write the random checkpoint of `card` into the empty `folder`, with the same bytes every time.

    Raises CheckpointError if there is no builder for the card's id.
    """
    if card.id not in _BUILDERS:
        raise CheckpointError(
            f"no random checkpoint is known for {card.id!r}; there are {', '.join(_BUILDERS)}"
        )
    with quiet(), torch.random.fork_rng(devices=[]):
        _BUILDERS[card.id](card, folder)


def _build_text2image(card: Card, folder: Path) -> None:
    from diffusers import StableDiffusionPipeline  # noqa: PLC0415 - slow to import, and needed only here

    text_encoder, tokenizer = _text_encoder(folder, seed=12)
    StableDiffusionPipeline(
        vae=_vae(levels=4, scaling_factor=0.18215, sample_size=card.width, seed=11),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=_unet(
            card.width // card.vae_factor,
            seed=13,
            in_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        scheduler=noise_schedule(card.prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _build_upscaler(card: Card, folder: Path) -> None:
    from diffusers import DDPMScheduler, StableDiffusionUpscalePipeline  # noqa: PLC0415

    text_encoder, tokenizer = _text_encoder(folder, seed=22)
    StableDiffusionUpscalePipeline(
        vae=_vae(levels=3, scaling_factor=0.08333, sample_size=card.width * 4, seed=21),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=_unet(
            card.width,
            seed=23,
            in_channels=7,
            num_class_embeds=1000,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=noise_schedule(card.prediction_type),
        max_noise_level=350,
    ).save_pretrained(folder)


def _build_safety_checker(_card: Card, folder: Path) -> None:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: PLC0415
    from transformers import CLIPConfig, CLIPImageProcessorPil  # noqa: PLC0415

    vision = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": _SAFETY_PIXELS,
        "patch_size": 8,
        "projection_dim": 64,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=64))
    fill(checker, seed=31)
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(0.6)
        checker.special_care_embeds_weights.fill_(0.6)
    checker.save_pretrained(folder)
    size = {"height": _SAFETY_PIXELS, "width": _SAFETY_PIXELS}
    CLIPImageProcessorPil(size={"shortest_edge": _SAFETY_PIXELS}, crop_size=size).save_pretrained(folder)


def _build_classifier(card: Card, folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil  # noqa: PLC0415

    labels = dict(enumerate(card.labels))
    classifier = ViTForImageClassification(
        ViTConfig(
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=_SAFETY_PIXELS,
            patch_size=8,
            id2label=labels,
            label2id={label: number for number, label in labels.items()},
        )
    )
    fill(classifier, seed=51)
    classifier.save_pretrained(folder)
    size = {"height": _SAFETY_PIXELS, "width": _SAFETY_PIXELS}
    ViTImageProcessorPil(size=size).save_pretrained(folder)


def _build_decoder(_card: Card, folder: Path) -> None:
    from diffusers import AutoencoderTiny  # noqa: PLC0415

    network = AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4,
        decoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    fill(network, seed=41)
    last = network.decoder.layers[-1]
    _balance(last.weight, gain=0.5)
    with torch.no_grad():
        last.bias.fill_(0.5)
    network.save_pretrained(folder)


def _text_encoder(folder: Path, seed: int) -> tuple[Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    tokenizer = build_tokenizer(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=_WIDTH,
        bos_token_id=tokenizer.convert_tokens_to_ids(START),
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
    )
    encoder = CLIPTextModel(config)
    fill(encoder, seed)
    return encoder, tokenizer


def _unet(sample_size: int, seed: int, **config: Any) -> Any:
    from diffusers import UNet2DConditionModel  # noqa: PLC0415

    unet = UNet2DConditionModel(
        sample_size=sample_size,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=_WIDTH,
        **config,
    )
    fill(unet, seed)
    return unet


def _vae(levels: int, scaling_factor: float, sample_size: int, seed: int) -> Any:
    """Return a VAE whose last convolution is balanced, so that pictures are around mid-grey."""
    from diffusers import AutoencoderKL  # noqa: PLC0415

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(16,) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=scaling_factor,
        sample_size=sample_size,
    )
    fill(vae, seed)
    _balance(vae.decoder.conv_out.weight, gain=0.5)
    return vae


def _balance(weight: Any, gain: float) -> None:
    """Make each kernel of `weight` (out, in, h, w) sum to zero, so that constant input gives zero, and scale it."""

    with torch.no_grad():
        weight.sub_(weight.mean(dim=(1, 2, 3), keepdim=True)).mul_(gain)


_BUILDERS: Mapping[str, Callable[[Card, Path], None]] = {
    "tiny-random": _build_text2image,
    "tiny-random-x4": _build_upscaler,
    "tiny-random-safety": _build_safety_checker,
    "tiny-random-decoder": _build_decoder,
    "tiny-random-classifier": _build_classifier,
}
