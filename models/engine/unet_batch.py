"""A UNet call of one fixed shape, whose rows are at different steps of different images."""

import heapq
from dataclasses import dataclass
from typing import Any

import torch

from models.engine.request import Ticket
from models.engine.sampler_matrices import REGISTERS
from models.engine.step_inputs import Plan, Seat
from models.engine.unet_calls import Inputs, Prompts, cycle
from models.runtime.compile_options import PLAIN, Speedup
from models.runtime.cuda_graphs import Pace
from models.runtime.fixed_batches import draw, moved

LatentShape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Finished:
    """An image's last latents (C, h, w), float32."""

    number: int
    latents: torch.Tensor


class UNetBatch:
    """`rows` rows of latents of one shape; an image takes two of them, or one without guidance.

    All tensors have the same shapes at every call, empty rows hold whatever was in them, and no operation mixes
    rows but an image's own two. So the device computes an image in the same way whatever stands beside it. Nothing
    waits for the device: what the host knows goes there, and only finished latents are handed out, still there.
    """

    def __init__(
        self,
        unet: Any,
        rows: int,
        latents: LatentShape,
        text: tuple[int, int],
        *,
        whole_every: int = 1,
        speedup: Speedup = PLAIN,
    ) -> None:
        """One call in `whole_every` computes the whole UNet, the others as `models.engine.unet_forward` has it."""
        self._unet, self.whole_every, self._phase = unet, whole_every, 0
        self.speedup = speedup
        self._device, self.rows, self.latents = unet.device, rows, latents
        self._dtype = unet.dtype  # diffusers looks through all modules for it
        beside = unet.config.in_channels - latents[0]
        self._registers = self._zeros(rows, REGISTERS, *latents, dtype=torch.float32)
        self._noise = self._zeros(rows, *latents, dtype=torch.float32)
        self._text = self._zeros(rows, *text, dtype=self._dtype)
        self._beside = self._zeros(rows, beside, *latents[1:], dtype=self._dtype) if beside else None
        self._labels = self._zeros(rows, dtype=torch.long) if unet.config.num_class_embeds else None
        self._plan = Plan(rows, self._device)
        self._pace = Pace(self._device)
        self._seats: list[Seat] = []
        self._empty = list(range(rows))
        self._empty_slots = list(range(rows))
        prompts = Prompts(self._plan.slots, self._text)
        self._calls = cycle(unet, whole_every, self._inputs, prompts, self._step, speedup)

    @property
    def is_empty(self) -> bool:
        """Whether no image is on its way."""
        return not self._seats

    @property
    def is_open(self) -> bool:
        """Whether an image may begin: each begins with a whole call."""
        return self.is_empty or self._phase == 0

    @property
    def empty_rows(self) -> int:
        """How many rows are empty."""
        return len(self._empty)

    def has_room(self, ticket: Ticket) -> bool:
        """Whether the ticket's rows are free; ValueError if there are never as many."""
        if ticket.rows > self.rows:
            raise ValueError(f"a batch of {self.rows} rows has no room for an image with guidance")
        return ticket.rows <= len(self._empty)

    def admit(self, ticket: Ticket) -> None:
        """Give the ticket its rows, from the next call on, which is a whole one."""
        assert self.is_open
        self._phase = 0
        slot = heapq.heappop(self._empty_slots)  # the lowest, for half of them to be empty if they can
        seat = Seat(ticket, slot, [self._empty.pop(0) for _ in range(ticket.rows)])
        self._registers[slot].zero_()
        self._registers[slot, 0] = ticket.latents
        for row, text in zip(seat.rows, (ticket.text, ticket.unguided), strict=False):
            assert text is not None
            self._text[row] = text
        if self._beside is not None:
            assert ticket.beside is not None
            self._beside[slot] = ticket.beside
        if self._labels is not None:
            self._labels[slot] = ticket.label
        self._seats.append(seat)

    def clear(self) -> None:
        """Send away all that are on their way."""
        for seat in list(self._seats):
            self._leave(seat)

    def call(self) -> list[Finished]:
        """One UNet call and each sampler's step after it; those for whom it was the last one leave."""
        self._plan.write(self._seats)
        self._draw_noise()
        self._calls[self._phase](seat.slot for seat in self._seats)
        self._phase = (self._phase + 1) % self.whole_every
        self._pace.called()
        for seat in self._seats:
            seat.calls += 1
        return [self._finish(seat) for seat in list(self._seats) if seat.calls == len(seat.ticket.recurrence)]

    def _inputs(self) -> Inputs:
        return Inputs(self._model_input(), self._plan.timesteps, self._labels)

    def _model_input(self) -> torch.Tensor:
        plan = self._plan
        scaled = (self._registers[:, 0] * plan.scales.view(-1, 1, 1, 1)).to(self._dtype)
        return scaled if self._beside is None else torch.cat([scaled, self._beside], dim=1)

    def _step(self, prediction: torch.Tensor) -> None:
        """Guidance (Ho & Salimans 2022), then all samplers at once; without an unguided row, both are the same one."""
        plan, prediction = self._plan, prediction.float()
        guided, unguided = prediction[plan.guided], prediction[plan.unguided]
        output = unguided + plan.guidance.view(-1, 1, 1, 1) * (guided - unguided)
        known = torch.cat([self._registers, output[:, None], self._noise[:, None]], dim=1)
        torch.bmm(plan.matrices, known.flatten(2), out=self._registers.flatten(2))

    def _draw_noise(self) -> None:
        for seat in self._seats:
            if seat.ticket.recurrence.is_noisy[seat.calls]:
                drawn = draw(seat.ticket.generator, self.latents)
                self._noise[seat.slot] = moved(drawn, self._device)

    def _finish(self, seat: Seat) -> Finished:
        latents = self._registers[seat.slot, 0].clone()
        self._leave(seat)
        return Finished(seat.ticket.number, latents)

    def _leave(self, seat: Seat) -> None:
        self._seats.remove(seat)
        self._empty += seat.rows
        heapq.heappush(self._empty_slots, seat.slot)

    def _zeros(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)
