"""What one UNet call does, as tensors on the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.chunks import moved
from models.engine.recurrence import REGISTERS, WIDTH
from models.engine.ticket import Ticket


@dataclass(eq=False)
class Seat:
    """A ticket's place in a batch: the slot of its registers, its rows, how many calls it has behind it."""

    ticket: Ticket
    slot: int
    rows: Sequence[int]
    calls: int = 0


@dataclass(frozen=True, eq=False)
class Plan:
    """For each of N rows the slot that it reads, its scale and timestep; for each of N slots the rest.

    `guided` and `unguided` are rows, the same one twice without guidance; `matrices` are (N, REGISTERS, WIDTH).
    Empty rows read slot 0 times 0; empty slots take a step to zeros.
    """

    slots: torch.Tensor
    guided: torch.Tensor
    unguided: torch.Tensor
    timesteps: torch.Tensor
    scales: torch.Tensor
    guidance: torch.Tensor
    matrices: torch.Tensor


def plan_of(seats: Sequence[Seat], rows: int, device: torch.device) -> Plan:
    """The next call of a batch of that many rows, sent to the device in three pieces."""
    places = np.zeros((3, rows), np.int64)
    numbers = np.zeros((3, rows), np.float32)
    matrices = np.zeros((rows, REGISTERS, WIDTH), np.float32)
    slots, guided, unguided = places
    timesteps, scales, guidance = numbers
    for seat in seats:
        recurrence, call, slot, own = seat.ticket.recurrence, seat.calls, seat.slot, list(seat.rows)
        slots[own], timesteps[own], scales[own] = slot, recurrence.timesteps[call], recurrence.scales[call]
        guided[slot], unguided[slot], guidance[slot] = own[0], own[-1], seat.ticket.guidance
        matrices[slot] = recurrence.matrices[call]
    placed, numbered = moved(torch.from_numpy(places), device), moved(torch.from_numpy(numbers), device)
    return Plan(
        slots=placed[0],
        guided=placed[1],
        unguided=placed[2],
        timesteps=numbered[0],
        scales=numbered[1],
        guidance=numbered[2],
        matrices=moved(torch.from_numpy(matrices), device),
    )
