"""Build the UNet calls of a batch: whole calls, or a cycle of one whole and several shallow ones (DeepCache)."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import torch

from models.runtime import batch_invariant_cuda_convolutions
from models.runtime.compile_options import CompileOptions
from models.runtime.cuda_graphs_and_streams import Work, recorded

log = logging.getLogger(__name__)

Begin = Callable[..., list[torch.Tensor]]
Finish = Callable[..., tuple[torch.Tensor, ...]]


class UNetForward(Protocol):
    """A UNet's forward pass in two parts, as `models.engine.unet_forward_with_reuse` has them."""

    @property
    def begin(self) -> Begin: ...
    @property
    def finish(self) -> Finish: ...
    @property
    def finish_and_keep(self) -> Finish: ...
    @property
    def finish_shallow(self) -> Finish: ...
    @property
    def shallow_depth(self) -> Callable[[Any], int]: ...
    @property
    def kept_channels(self) -> Callable[[Any], int]: ...


class Inputs(NamedTuple):
    """UNet inputs of N images: sample (N, C, h, w), timesteps (N,) and, if the UNet takes them, class labels (N,)."""

    sample: torch.Tensor
    timesteps: torch.Tensor
    labels: torch.Tensor | None

    def part(self, images: slice) -> "Inputs":
        """Return the inputs of some of the images."""
        sample, timesteps, labels = self
        return Inputs(sample[images], timesteps[images], None if labels is None else labels[images])


class Prompts(NamedTuple):
    """For each of N rows, the slot of its image (N,) and its text conditions, each (N, …)."""

    slots: torch.Tensor
    text: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Call:
    """A UNet call: `parts` compute what an image's rows share, `at_once` slots each; then `rest` computes the rows.

    There are as many slots as rows; with guidance, half of them are empty. Parts that hold no image are skipped.
    """

    at_once: int
    parts: Sequence[Work]
    rest: Work

    def __call__(self, slots: Iterable[int]) -> None:
        """Run the call with images in these slots."""
        for number in sorted({slot // self.at_once for slot in slots}):
            self.parts[number]()
        self.rest()

    def recorded(self, device: torch.device) -> Self:
        """Return the same call with each part and the rest recorded as CUDA graphs."""
        parts = [recorded(work, device) for work in self.parts]
        return replace(self, parts=parts, rest=recorded(self.rest, device))


def cycle(
    unet: Any,
    forward: UNetForward,
    cache_interval: int,
    read: Callable[[], Inputs],
    prompts: Prompts,
    step: Callable[[torch.Tensor], None],
    compile_options: CompileOptions,
) -> list[Call]:
    """Return `cache_interval` calls, the first of them whole; each calls `step` with the UNet's prediction.

    `forward` is the forward pass of the UNet's kind; `read` returns the inputs of a call. On devices where convolutions
    may depend on the position in the batch, those that do are replaced first, and one call is tested; the inputs hold
    no meaningful values yet. With `compile_options.recorded`, the calls are recorded as CUDA graphs here, which runs
    each of them a few times.
    """
    if batch_invariant_cuda_convolutions.is_needed(unet.device):
        inputs = read()
        changed = batch_invariant_cuda_convolutions.replace_batch_dependent_convolutions(
            unet,
            lambda: _whole(unet, forward.begin, forward.finish, inputs, prompts),
        )
        log.debug("%d convolutions are done as products", changed)
    calls = (
        [_exact(unet, forward, read, prompts, step, compile_options)]
        if cache_interval == 1
        else _cached(unet, forward, read, prompts, step, compile_options)
    )
    if compile_options.recorded:
        calls = [call.recorded(unet.device) for call in calls]
    return calls + calls[1:] * (cache_interval - 2)


def _warn_if_not_batch_invariant(
    unet: Any, begin: Begin, finish: Finish, inputs: Inputs, prompts: Prompts
) -> None:
    """Log a warning if the call's result still depends on the position in the batch."""
    sample = inputs.sample
    if not batch_invariant_cuda_convolutions.is_needed(sample.device):
        return
    each = prompts._replace(slots=torch.arange(len(sample), device=sample.device))
    if batch_invariant_cuda_convolutions.depends_on_position(
        lambda values: _whole(unet, begin, finish, inputs._replace(sample=values), each), sample
    ):
        rows, device = len(sample), sample.device
        log.warning("a picture's last bits tell its place in a batch of %d rows on %s", rows, device)


def _whole(unet: Any, begin: Begin, finish: Finish, inputs: Inputs, prompts: Prompts) -> torch.Tensor:
    parts = [begin(unet, *inputs.part(images)) for images in _parts(len(inputs.sample))]
    return finish(
        unet, [torch.cat(of_all) for of_all in zip(*parts, strict=True)], prompts.slots, *prompts.text
    )[0]


def _parts(rows: int) -> list[slice]:
    """Return the slices of slots that are computed together: rows / 4 images each if that is at least 4, else rows / 2.

    Never one image alone: on CPUs, sums for a batch of one may depend on the memory address of the weights.
    """
    images = max(2, rows // 2)
    at_once = images // 2 if images >= 8 and images % 2 == 0 else images
    return [slice(start, start + at_once) for start in range(0, rows, at_once)]


def _exact(
    unet: Any,
    forward: UNetForward,
    read: Callable[[], Inputs],
    prompts: Prompts,
    step: Callable[[torch.Tensor], None],
    compile_options: CompileOptions,
) -> Call:
    begin, finish = compile_options.compile(forward.begin), compile_options.compile(forward.finish)
    _warn_if_not_batch_invariant(unet, begin, finish, read(), prompts)
    begun = _Begun(unet, begin, read)
    return begun.call(lambda: step(finish(unet, begun.values, prompts.slots, *prompts.text)[0]))


def _cached(
    unet: Any,
    forward: UNetForward,
    read: Callable[[], Inputs],
    prompts: Prompts,
    step: Callable[[torch.Tensor], None],
    compile_options: CompileOptions,
) -> list[Call]:
    begin, finish = (
        compile_options.compile(forward.begin),
        compile_options.compile(forward.finish_and_keep),
    )
    shallow = compile_options.compile(forward.finish_shallow)
    _warn_if_not_batch_invariant(unet, begin, finish, read(), prompts)
    begun, outer = (
        _Begun(unet, begin, read),
        _Begun(unet, begin, read, forward.shallow_depth(unet)),
    )
    rows, (height, width) = len(prompts.slots), read().sample.shape[2:]
    kept = torch.zeros(rows, forward.kept_channels(unet), height, width, dtype=unet.dtype, device=unet.device)

    def whole() -> None:
        prediction, found = finish(unet, begun.values, prompts.slots, *prompts.text)
        kept.copy_(found)
        step(prediction)

    return [
        begun.call(whole),
        outer.call(lambda: step(shallow(unet, outer.values, prompts.slots, *prompts.text, kept)[0])),
    ]


class _Begun:
    """Buffers for what the rows of an image share at a call."""

    def __init__(self, unet: Any, begin: Begin, read: Callable[[], Inputs], depth: int | None = None) -> None:
        self._begin, self._read = partial(begin, unet, depth=depth), read
        inputs = read()
        self._parts = _parts(len(inputs.sample))
        some = self._begin(*inputs.part(self._parts[0]))
        self.values = [torch.cat([torch.zeros_like(values)] * len(self._parts)) for values in some]

    def call(self, rest: Work) -> Call:
        """Return a call that fills the buffers and then runs `rest`."""
        works = [partial(self._make, images) for images in self._parts]
        return Call(self._parts[0].stop, works, rest)

    def _make(self, images: slice) -> None:
        for kept, found in zip(self.values, self._begin(*self._read().part(images)), strict=True):
            kept[images] = found
