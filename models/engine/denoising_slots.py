"""A UNet batch of fixed shape, whose rows are at different steps of different images."""

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from models.engine import unet_forward_with_reuse
from models.engine.denoising_request import EngineRequest
from models.engine.sampler_matrices import REGISTERS
from models.engine.step_inputs import ActiveImage, StepInputs
from models.engine.whole_and_shallow_unet_calls import Inputs, Prompts, UNetForward, cycle
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.cuda_graphs_and_streams import Pace
from models.runtime.padding_and_noise import draw, moved

LatentShape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Finished:
    """The final latents (C, h, w) of an image, float32."""

    key: Hashable
    latents: torch.Tensor


class UNetBatch:
    """`rows` rows of latents of one shape; an image takes two of them, or one without guidance.

    All tensors have the same shapes at every call, empty rows keep their last values, and no operation mixes rows other
    than the two of one image. So the result for an image does not depend on the other images in the batch. The host
    never waits for the device: inputs are copied asynchronously, and finished latents stay on the device.
    """

    def __init__(
        self,
        unet: Any,
        rows: int,
        latents: LatentShape,
        conditions: Sequence[tuple[int, ...]],
        *,
        forward: UNetForward = unet_forward_with_reuse,
        cache_interval: int = 1,
        compile_options: CompileOptions = PLAIN,
    ) -> None:
        """Take the shapes of an image's `latents` and of a row's text `conditions`.

        The whole UNet is computed at one call in `cache_interval`, and a part of it at the others.
        """
        self._unet, self.cache_interval, self._phase = unet, cache_interval, 0
        self.compile_options = compile_options
        self._device, self.rows, self.latents = unet.device, rows, latents
        self._dtype = unet.dtype  # read once: diffusers iterates over all modules to find it
        beside = unet.config.in_channels - latents[0]
        self._registers = self._zeros(rows, REGISTERS, *latents, dtype=torch.float32)
        self._noise = self._zeros(rows, *latents, dtype=torch.float32)
        self._text = tuple(self._zeros(rows, *shape, dtype=self._dtype) for shape in conditions)
        self._beside = self._zeros(rows, beside, *latents[1:], dtype=self._dtype) if beside else None
        self._labels = self._zeros(rows, dtype=torch.long) if unet.config.num_class_embeds else None
        self._step_inputs = StepInputs(rows, self._device)
        self._pace = Pace(self._device)
        self._active: list[ActiveImage] = []
        self._empty = list(range(rows))
        self._empty_slots = list(range(rows))
        prompts = Prompts(self._step_inputs.slots, self._text)
        self._calls = cycle(unet, forward, cache_interval, self._inputs, prompts, self._step, compile_options)

    @property
    def is_empty(self) -> bool:
        """Whether no image is in progress."""
        return not self._active

    @property
    def is_open(self) -> bool:
        """Whether an image may be admitted now: an image's first call has to be a whole one."""
        return self.is_empty or self._phase == 0

    @property
    def empty_rows(self) -> int:
        """Number of empty rows."""
        return len(self._empty)

    def has_room(self, engine_request: EngineRequest) -> bool:
        """Return whether the request's rows are free. Raises ValueError if the batch is too small for it."""
        if engine_request.rows > self.rows:
            raise ValueError(f"a batch of {self.rows} rows has no room for an image with guidance")
        return engine_request.rows <= len(self._empty)

    def admit(self, engine_request: EngineRequest) -> None:
        """Assign rows to the request; its first call is the next one, a whole one."""
        assert self.is_open
        self._phase = 0
        slot = heapq.heappop(self._empty_slots)  # lowest first, so that whole parts can stay empty
        active = ActiveImage(engine_request, slot, [self._empty.pop(0) for _ in range(engine_request.rows)])
        self._registers[slot].zero_()
        self._registers[slot, 0] = engine_request.latents
        for row, text in zip(active.rows, (engine_request.text, engine_request.unguided), strict=False):
            assert text is not None
            for values, own in zip(self._text, text, strict=True):
                values[row] = own
        if self._beside is not None:
            assert engine_request.beside is not None
            self._beside[slot] = engine_request.beside
        if self._labels is not None:
            self._labels[slot] = engine_request.label
        self._active.append(active)

    def clear(self) -> None:
        """Remove all images in progress."""
        for active in list(self._active):
            self._leave(active)

    def call(self) -> list[Finished]:
        """Run one UNet call and one step of every sampler; return and remove the images that are finished."""
        self._step_inputs.write(self._active)
        self._draw_noise()
        self._calls[self._phase](active.slot for active in self._active)
        self._phase = (self._phase + 1) % self.cache_interval
        self._pace.called()
        for active in self._active:
            active.calls += 1
        return [
            self._finish(active)
            for active in list(self._active)
            if active.calls == len(active.engine_request.matrices)
        ]

    def _inputs(self) -> Inputs:
        return Inputs(self._model_input(), self._step_inputs.timesteps, self._labels)

    def _model_input(self) -> torch.Tensor:
        step_inputs = self._step_inputs
        scaled = (self._registers[:, 0] * step_inputs.scales.view(-1, 1, 1, 1)).to(self._dtype)
        return scaled if self._beside is None else torch.cat([scaled, self._beside], dim=1)

    def _step(self, prediction: torch.Tensor) -> None:
        """Apply guidance (Ho & Salimans 2022) and all samplers' steps; without guidance, both rows are the same."""
        step_inputs, prediction = self._step_inputs, prediction.float()
        guided, unguided = prediction[step_inputs.guided], prediction[step_inputs.unguided]
        output = unguided + step_inputs.guidance.view(-1, 1, 1, 1) * (guided - unguided)
        known = torch.cat([self._registers, output[:, None], self._noise[:, None]], dim=1)
        torch.bmm(step_inputs.matrices, known.flatten(2), out=self._registers.flatten(2))

    def _draw_noise(self) -> None:
        for active in self._active:
            if active.engine_request.matrices.is_noisy[active.calls]:
                drawn = draw(active.engine_request.generator, self.latents)
                self._noise[active.slot] = moved(drawn, self._device)

    def _finish(self, active: ActiveImage) -> Finished:
        latents = self._registers[active.slot, 0].clone()
        self._leave(active)
        return Finished(active.engine_request.key, latents)

    def _leave(self, active: ActiveImage) -> None:
        self._active.remove(active)
        self._empty += active.rows
        heapq.heappush(self._empty_slots, active.slot)

    def _zeros(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)
