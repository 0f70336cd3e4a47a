"""The UNet calls of a batch, one after the other: each whole, or only one in a few."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from models.engine import deep_cache, places
from models.engine.device_work import Work, recorded
from models.speedup import Speedup

log = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """What a UNet reads: (N, C, h, w), (N,), (N, tokens, width), and (N,) class labels if it takes them."""

    sample: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    labels: torch.Tensor | None


def cycle(
    unet: Any,
    whole_every: int,
    read: Callable[[], Inputs],
    step: Callable[[torch.Tensor], None],
    speedup: Speedup,
) -> list[Work]:
    """The work of `whole_every` calls, the first of them whole: `step` takes what the UNet makes of what is `read`.

    Before, on a device where convolutions may show places, they are leveled, and a call is tried; what is read has no
    values yet. Where `speedup` says so, calls are recorded on the spot, which does them a few times.
    """
    if places.matter(unet.device):
        inputs = read()
        changed = places.level(unet, lambda: _call(unet, inputs))
        log.debug("%d convolutions are done as products", changed)
    works = [_exact(unet, read, step, speedup)] if whole_every == 1 else _cached(unet, read, step, speedup)
    if speedup.recorded:
        works = [recorded(work, unet.device) for work in works]
    return works + works[1:] * (whole_every - 2)


def _look(predict: Callable[[Inputs], torch.Tensor], inputs: Inputs) -> None:
    """Say in the log if a call, as it is done from now on, shows places all the same."""
    sample = inputs.sample
    if not places.matter(sample.device):
        return
    if places.shows_place(lambda values: predict(inputs._replace(sample=values)), sample):
        rows, device = len(sample), sample.device
        log.warning("a picture's last bits tell its place in a batch of %d rows on %s", rows, device)


def _call(unet: Callable[..., Any], inputs: Inputs) -> torch.Tensor:
    sample, timesteps, text, labels = inputs
    prediction: torch.Tensor = unet(
        sample, timesteps, encoder_hidden_states=text, class_labels=labels, return_dict=False
    )[0]
    return prediction


def _exact(
    unet: Any, read: Callable[[], Inputs], step: Callable[[torch.Tensor], None], speedup: Speedup
) -> Work:
    predict = speedup.compile(unet)
    _look(lambda inputs: _call(predict, inputs), read())
    return lambda: step(_call(predict, read()))


def _cached(
    unet: Any, read: Callable[[], Inputs], step: Callable[[torch.Tensor], None], speedup: Speedup
) -> list[Work]:
    whole, shallow = speedup.compile(deep_cache.whole), speedup.compile(deep_cache.shallow)
    _look(lambda inputs: whole(unet, *inputs)[0], read())
    rows, _, height, width = read().sample.shape
    kept = torch.zeros(rows, deep_cache.width(unet), height, width, dtype=unet.dtype, device=unet.device)

    def first() -> None:
        prediction, found = whole(unet, *read())
        kept.copy_(found)
        step(prediction)

    return [first, lambda: step(shallow(unet, *read(), kept))]
