"""The UNet calls of a batch, one after the other: each whole, or only one in a few."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch

from models.engine import unet_forward
from models.runtime import batch_invariant_cuda
from models.runtime.compile_options import CompileOptions
from models.runtime.cuda_graphs import Work, recorded

log = logging.getLogger(__name__)

Begin = Callable[..., list[torch.Tensor]]
Finish = Callable[..., tuple[torch.Tensor, ...]]


class Inputs(NamedTuple):
    """What a UNet reads of N images: (N, C, h, w), (N,), and (N,) class labels if it takes them."""

    sample: torch.Tensor
    timesteps: torch.Tensor
    labels: torch.Tensor | None

    def part(self, images: slice) -> "Inputs":
        """Of some images."""
        sample, timesteps, labels = self
        return Inputs(sample[images], timesteps[images], None if labels is None else labels[images])


class Prompts(NamedTuple):
    """For each of N rows, the image that it belongs to (N,), and its prompt (N, tokens, width)."""

    slots: torch.Tensor
    text: torch.Tensor


@dataclass(frozen=True)
class Call:
    """A UNet call: what an image's rows share, in parts of so many images, and then the rows.

    There are as many places for images as rows; with guidance, half of them are empty. Those parts are left out in
    which no image is.
    """

    at_once: int
    parts: Sequence[Work]
    rest: Work

    def __call__(self, slots: Iterable[int]) -> None:
        """With images in these slots."""
        for number in sorted({slot // self.at_once for slot in slots}):
            self.parts[number]()
        self.rest()

    def recorded(self, device: torch.device) -> Self:
        """The same with each part and the rest as a CUDA graph."""
        parts = [recorded(work, device) for work in self.parts]
        return replace(self, parts=parts, rest=recorded(self.rest, device))


def cycle(
    unet: Any,
    whole_every: int,
    read: Callable[[], Inputs],
    prompts: Prompts,
    step: Callable[[torch.Tensor], None],
    compile_options: CompileOptions,
) -> list[Call]:
    """The work of `whole_every` calls, the first of them whole: `step` takes what the UNet makes of what is `read`.

    Before, on a device where convolutions may show places, they are leveled, and a call is tried; what is read has no
    values yet. Where `compile_options` says so, calls are recorded on the spot, which does them a few times.
    """
    if batch_invariant_cuda.matter(unet.device):
        inputs = read()
        changed = batch_invariant_cuda.level(
            unet, lambda: _whole(unet, unet_forward.begin, unet_forward.finish, inputs, prompts)
        )
        log.debug("%d convolutions are done as products", changed)
    calls = (
        [_exact(unet, read, prompts, step, compile_options)]
        if whole_every == 1
        else _cached(unet, read, prompts, step, compile_options)
    )
    if compile_options.recorded:
        calls = [call.recorded(unet.device) for call in calls]
    return calls + calls[1:] * (whole_every - 2)


def _look(unet: Any, begin: Begin, finish: Finish, inputs: Inputs, prompts: Prompts) -> None:
    """Say in the log if a call, as it is done from now on, shows places all the same."""
    sample = inputs.sample
    if not batch_invariant_cuda.matter(sample.device):
        return
    each = prompts._replace(slots=torch.arange(len(sample), device=sample.device))
    if batch_invariant_cuda.shows_place(
        lambda values: _whole(unet, begin, finish, inputs._replace(sample=values), each), sample
    ):
        rows, device = len(sample), sample.device
        log.warning("a picture's last bits tell its place in a batch of %d rows on %s", rows, device)


def _whole(unet: Any, begin: Begin, finish: Finish, inputs: Inputs, prompts: Prompts) -> torch.Tensor:
    parts = [begin(unet, *inputs.part(images)) for images in _parts(len(inputs.sample))]
    return finish(unet, [torch.cat(of_all) for of_all in zip(*parts, strict=True)], *prompts)[0]


def _parts(rows: int) -> list[slice]:
    """Images that begin together: half as many as are on their way with guidance, if that is no less than four.

    And never one alone: on CPUs, sums for one may depend on where in memory the weights lie.
    """
    images = max(2, rows // 2)
    at_once = images // 2 if images >= 8 and images % 2 == 0 else images
    return [slice(start, start + at_once) for start in range(0, rows, at_once)]


def _exact(
    unet: Any,
    read: Callable[[], Inputs],
    prompts: Prompts,
    step: Callable[[torch.Tensor], None],
    compile_options: CompileOptions,
) -> Call:
    begin, finish = compile_options.compile(unet_forward.begin), compile_options.compile(unet_forward.finish)
    _look(unet, begin, finish, read(), prompts)
    begun = _Begun(unet, begin, read)
    return begun.call(lambda: step(finish(unet, begun.values, *prompts)[0]))


def _cached(
    unet: Any,
    read: Callable[[], Inputs],
    prompts: Prompts,
    step: Callable[[torch.Tensor], None],
    compile_options: CompileOptions,
) -> list[Call]:
    begin, finish = (
        compile_options.compile(unet_forward.begin),
        compile_options.compile(unet_forward.finish_and_keep),
    )
    shallow = compile_options.compile(unet_forward.finish_shallow)
    _look(unet, begin, finish, read(), prompts)
    begun, outer = _Begun(unet, begin, read), _Begun(unet, begin, read, unet_forward.shallow_depth(unet))
    rows, (height, width) = len(prompts.slots), read().sample.shape[2:]
    kept = torch.zeros(
        rows, unet_forward.kept_channels(unet), height, width, dtype=unet.dtype, device=unet.device
    )

    def whole() -> None:
        prediction, found = finish(unet, begun.values, *prompts)
        kept.copy_(found)
        step(prediction)

    return [
        begun.call(whole),
        outer.call(lambda: step(shallow(unet, outer.values, *prompts, kept)[0])),
    ]


class _Begun:
    """What images' rows share at a call."""

    def __init__(self, unet: Any, begin: Begin, read: Callable[[], Inputs], depth: int | None = None) -> None:
        self._begin, self._read = partial(begin, unet, depth=depth), read
        inputs = read()
        self._parts = _parts(len(inputs.sample))
        some = self._begin(*inputs.part(self._parts[0]))
        self.values = [torch.cat([torch.zeros_like(values)] * len(self._parts)) for values in some]

    def call(self, rest: Work) -> Call:
        """The call that makes it, and the `rest` of it."""
        works = [partial(self._make, images) for images in self._parts]
        return Call(self._parts[0].stop, works, rest)

    def _make(self, images: slice) -> None:
        for kept, found in zip(self.values, self._begin(*self._read().part(images)), strict=True):
            kept[images] = found
