"""The UNet in two parts is the library's, also where outer layers alone are computed; pictures stay apart."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.catalogue.samplers import SAMPLERS
from models.diffusion.loader import load_pipeline
from models.diffusion.requests import ImageRequest
from models.engine import unet_forward_with_reuse
from models.errors import CheckpointError
from models.families.stable_diffusion import StableDiffusion
from models.runtime.device import Device
from models.store.resolve_checkpoint import Checkpoint
from tests.models import checkpoints
from tests.models.streaming import stream

Image = Callable[..., ImageRequest]
Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


@pytest.fixture(scope="module", params=["tiny", *checkpoints.SYSTEMS])
def unet(request: pytest.FixtureRequest, models_dir: Path, device: Device) -> Any:
    if request.param == "tiny":
        return request.getfixturevalue("tiny").pipeline.unet
    checkpoint = checkpoints.checkpoint(request.param, models_dir)
    is_upscaler = request.param == "x4"
    return load_pipeline(
        checkpoint, device, "StableDiffusionUpscalePipeline" if is_upscaler else "StableDiffusionPipeline"
    ).unet


def _given(unet: Any, rows: int, sides: tuple[int, int]) -> tuple[Given, torch.Tensor]:
    """Latents, timesteps and labels of three images, and the prompts of so many rows."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(3, unet.config.in_channels, *sides, generator=generator)
    text = torch.randn(rows, 77, unet.config.cross_attention_dim, generator=generator)
    labels = torch.tensor([20, 7, 3]) if unet.config.num_class_embeds else None
    return (sample, torch.tensor([700.0, 20.0, 310.0]), labels), text


def _by_the_library(unet: Any, given: Given, text: torch.Tensor) -> torch.Tensor:
    sample, timesteps, labels = given
    found: torch.Tensor = unet(sample, timesteps, encoder_hidden_states=text, class_labels=labels).sample
    return found


@pytest.mark.parametrize("sides", [(8, 8), (9, 5), (16, 8)])
@torch.inference_mode()
def test_both_parts_are_the_library_s_whole(unet: Any, sides: tuple[int, int]) -> None:
    given, text = _given(unet, 3, sides)
    begun, slots = unet_forward_with_reuse.begin(unet, *given), torch.arange(3)
    expected = _by_the_library(unet, given, text)
    assert torch.equal(unet_forward_with_reuse.finish(unet, begun, slots, text)[0], expected)
    found, kept = unet_forward_with_reuse.finish_and_keep(unet, begun, slots, text)
    assert torch.equal(found, expected)
    assert kept.shape == (3, unet_forward_with_reuse.kept_channels(unet), *sides)
    outer = unet_forward_with_reuse.begin(unet, *given, depth=unet_forward_with_reuse.shallow_depth(unet))
    again, other = (
        unet_forward_with_reuse.finish_shallow(unet, outer, slots, text, each)[0] for each in (kept, 0 * kept)
    )
    assert torch.equal(again, expected), "of the same step, what is kept is what would be computed"
    assert not torch.equal(other, expected)


@torch.inference_mode()
def test_rows_of_an_image_share_a_beginning(unet: Any) -> None:
    slots = torch.tensor([0, 2, 1, 1, 0, 2])
    given, text = _given(unet, len(slots), (8, 8))
    begun = unet_forward_with_reuse.begin(unet, *given)
    expanded = [None if values is None else values[slots] for values in given]
    expected = _by_the_library(unet, expanded, text)
    assert torch.allclose(unet_forward_with_reuse.finish(unet, begun, slots, text)[0], expected, atol=1e-5)


@torch.inference_mode()
def test_no_work_is_done_twice(unet: Any) -> None:
    given, text = _given(unet, 3, (8, 8))

    def flop(work: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counted:
            work()
        return counted.get_total_flops()

    begun = unet_forward_with_reuse.begin(unet, *given)
    whole = flop(lambda: _by_the_library(unet, given, text))
    first = flop(lambda: unet_forward_with_reuse.begin(unet, *given))
    rest = flop(lambda: unet_forward_with_reuse.finish(unet, begun, torch.arange(3), text))
    assert first + rest == whole
    assert first > whole / 30


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each beginning was computed for."""
    begin, seen = unet_forward_with_reuse.begin, list[int]()

    def counted(unet: Any, sample: torch.Tensor, *given: Any, **named: Any) -> object:
        seen.append(len(sample))
        return begin(unet, sample, *given, **named)

    monkeypatch.setattr(unet_forward_with_reuse, "begin", counted)
    return seen


@pytest.mark.parametrize("cache_interval", [1, 2])
@pytest.mark.parametrize(
    ("scale", "rows", "images", "expected"),
    [(7.5, 4, 4, [4]), (1.0, 4, 4, [4]), (1.0, 4, 8, [4, 4]), (7.5, 8, 8, [4, 4]), (7.5, 8, 3, [4]), (7.5, 1, 1, [2])],
)  # fmt: skip
def test_a_guided_image_begins_once_a_call(
    *,
    tiny_checkpoint: Checkpoint,
    device: Device,
    image: Image,
    begun: list[int],
    scale: float,
    rows: int,
    images: int,
    expected: list[int],
    cache_interval: int,
) -> None:
    """Those in their places of a batch begin together, if there is one among them."""
    model = StableDiffusion.load(tiny_checkpoint, device)
    model.render([image(steps=1)], rows=rows, cache_interval=cache_interval)
    begun.clear()
    requests = [image(seed=n, steps=6, guidance_scale=scale) for n in range(images)]
    model.render(requests, rows=rows, cache_interval=cache_interval)
    assert begun == expected * 6


@pytest.mark.parametrize("cache_interval", [1, 3])
def test_a_picture_is_the_same_in_any_part(tiny: StableDiffusion, image: Image, cache_interval: int) -> None:
    """Without guidance, eight images are on their way at once, in two parts of four."""
    for scale in (1.0, 7.5):
        asked = image(steps=4, guidance_scale=scale)
        others = [image(seed=10 + n, steps=4 + n, guidance_scale=1.0) for n in range(7)]
        (alone,) = tiny.render([asked], rows=4, cache_interval=cache_interval)
        for place in range(8):
            mixed = [*others[:place], asked, *others[place:]]
            found = tiny.render(mixed, rows=4, cache_interval=cache_interval)[place]
            assert np.array_equal(found.pixels, alone.pixels)


@pytest.mark.parametrize(("sampler", "cache_interval"), [*((name, 2) for name in SAMPLERS), ("unipc", 3)])
def test_between_whole_calls_a_picture_does_not_depend_on_its_neighbours(
    tiny: StableDiffusion, image: Image, sampler: str, cache_interval: int
) -> None:
    asked = image(sampler=sampler, steps=6)
    others = [image(seed=10 + n, steps=2 + n, sampler=SAMPLERS[n], guidance_scale=n) for n in range(5)]
    (alone,) = tiny.render([asked], rows=2, cache_interval=cache_interval)
    for mixed in ([*others, asked], [others[3], asked, *others], [asked, *others]):
        place = mixed.index(asked)
        found = tiny.render(mixed, rows=2, cache_interval=cache_interval)[place]
        assert np.array_equal(found.pixels, alone.pixels)
    (exact,) = tiny.render([asked], rows=2)
    assert not np.array_equal(exact.pixels, alone.pixels)


def test_images_begin_with_whole_calls(
    tiny: StableDiffusion, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("finish_and_keep", "finish_shallow"):
        monkeypatch.setattr(
            unet_forward_with_reuse, name, _counted(getattr(unet_forward_with_reuse, name), calls)
        )

    def requests() -> Iterator[ImageRequest]:
        for number, steps in enumerate((4, 4, 2)):
            calls.append(f"asked for {number}")
            yield image(steps=steps, guidance_scale=1.0)

    list(stream(tiny, requests(), rows=1, cache_interval=3))
    whole, shallow = "finish_and_keep", "finish_shallow"
    assert calls == [
        "asked for 0", "asked for 1", whole, shallow, shallow, whole,
        "asked for 2", whole, shallow,
    ]  # fmt: skip


def _counted(work: Callable[..., object], calls: list[str]) -> Callable[..., object]:
    def counted(*given: object) -> object:
        calls.append(work.__name__)
        return work(*given)

    return counted


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim 256"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type text_time"),
        ({"down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D")}, "down_block_types with Simple"),
        ({"mid_block_type": None}, "mid_block_type with None"),
        ({"up_block_types": ("UpBlock2D", "AttnUpBlock2D")}, "up_block_types with AttnUpBlock2D"),
    ],
)
def test_what_no_unet_of_stable_diffusion_has_is_refused(
    tiny: StableDiffusion, config: dict[str, Any], said: str
) -> None:
    own = tiny.pipeline.unet.config
    assert unet_forward_with_reuse.unknown_part(own) is None
    assert said in (unet_forward_with_reuse.unknown_part(own | config) or "")


def test_a_checkpoint_with_such_a_unet_is_refused(copied: Checkpoint, device: Device) -> None:
    file = copied.path / "unet" / "config.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"center_input_sample": false', '"center_input_sample": true'))
    with pytest.raises(CheckpointError, match="unet: it has center_input_sample True, which UNets of Stable"):
        StableDiffusion.load(copied, device)
