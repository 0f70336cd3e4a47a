"""The UNet in its own pieces is the library's; between whole calls, pictures still don't depend on one another."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from models.engine import deep_cache
from models.samplers import SAMPLERS
from models.stable_diffusion import ImageRequest, StableDiffusion
from models.upscale import Upscaler

Image = Callable[..., ImageRequest]


@pytest.mark.parametrize("sides", [(8, 8), (9, 5), (16, 8)])
def test_a_whole_call_is_the_librarys(
    tiny: StableDiffusion, upscaler: Upscaler, sides: tuple[int, int]
) -> None:
    for unet, labels in ((tiny._pipeline.unet, None), (upscaler._pipeline.unet, torch.tensor([20, 7]))):
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(2, unet.config.in_channels, *sides, generator=generator)
        text = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
        timesteps = torch.tensor([700.0, 20.0])
        with torch.inference_mode():
            expected = unet(sample, timesteps, encoder_hidden_states=text, class_labels=labels).sample
            found, kept = deep_cache.whole(unet, sample, timesteps, text, labels)
            again = deep_cache.shallow(unet, sample, timesteps, text, labels, kept)
            other = deep_cache.shallow(unet, sample, timesteps, text, labels, 0 * kept)
        assert torch.equal(found, expected)
        assert kept.shape == (2, deep_cache.width(unet), *sides)
        assert torch.equal(again, expected), "of the same step, what is kept is what would be computed"
        assert not torch.equal(other, expected)


@pytest.mark.parametrize(("sampler", "whole_every"), [*((name, 2) for name in SAMPLERS), ("unipc", 3)])
def test_a_picture_does_not_depend_on_its_neighbours(
    tiny: StableDiffusion, image: Image, sampler: str, whole_every: int
) -> None:
    asked = image(sampler=sampler, steps=6)
    others = [image(seed=10 + n, steps=2 + n, sampler=SAMPLERS[n], guidance_scale=n) for n in range(5)]
    (alone,) = tiny.render([asked], rows=2, whole_every=whole_every)
    for mixed in ([*others, asked], [others[3], asked, *others], [asked, *others]):
        place = mixed.index(asked)
        found = tiny.render(mixed, rows=2, whole_every=whole_every)[place]
        assert np.array_equal(found.pixels, alone.pixels)
    (exact,) = tiny.render([asked], rows=2)
    assert not np.array_equal(exact.pixels, alone.pixels)


def test_images_begin_with_whole_calls(
    tiny: StableDiffusion, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("whole", "shallow"):
        monkeypatch.setattr(deep_cache, name, _counted(getattr(deep_cache, name), calls))

    def requests() -> Iterator[ImageRequest]:
        for number, steps in enumerate((4, 4, 2)):
            calls.append(f"asked for {number}")
            yield image(steps=steps, guidance_scale=1.0)

    list(tiny.stream(requests(), rows=1, whole_every=3))
    assert calls == [
        "asked for 0", "asked for 1", "whole", "shallow", "shallow", "whole",
        "asked for 2", "whole", "shallow",
    ]  # fmt: skip


def _counted(work: Callable[..., object], calls: list[str]) -> Callable[..., object]:
    def counted(*given: object) -> object:
        calls.append(work.__name__)
        return work(*given)

    return counted
