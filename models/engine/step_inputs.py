"""Inputs of one UNet call and sampler step, as tensors on the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.engine.denoising_request import EngineRequest
from models.engine.sampler_matrices import REGISTERS, WIDTH
from models.runtime.padding_and_noise import moved


@dataclass(eq=False)
class ActiveImage:
    """State of a request in the batch: the slot of its registers, its rows, the number of calls done."""

    engine_request: EngineRequest
    slot: int
    rows: Sequence[int]
    calls: int = 0


class StepInputs:
    """Per-call tensors: for each of N rows, the slot that it reads; for each of N slots, everything else.

    `guided` and `unguided` are row numbers, equal for an image without guidance; `matrices` are (N, REGISTERS, WIDTH).
    Empty rows read slot 0; empty slots have scale 0 and a step matrix of zeros. The tensors keep their addresses when
    the values of another call are written, as CUDA graphs require.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows = rows
        self._places = torch.zeros(3, rows, dtype=torch.long, device=device)
        self._numbers = torch.zeros(3, rows, device=device)
        self.matrices = torch.zeros(rows, REGISTERS, WIDTH, device=device)
        self.slots, self.guided, self.unguided = self._places.unbind()
        self.timesteps, self.scales, self.guidance = self._numbers.unbind()

    def write(self, actives: Sequence[ActiveImage]) -> None:
        """Write the values of the active images' next call, in three transfers to the device."""
        places = np.zeros((3, self._rows), np.int64)
        numbers = np.zeros((3, self._rows), np.float32)
        matrices = np.zeros((self._rows, REGISTERS, WIDTH), np.float32)
        slots, guided, unguided = places
        timesteps, scales, guidance = numbers
        for active in actives:
            sampler_matrices, call, slot, own = (
                active.engine_request.matrices,
                active.calls,
                active.slot,
                list(active.rows),
            )
            slots[own] = slot
            timesteps[slot], scales[slot] = sampler_matrices.timesteps[call], sampler_matrices.scales[call]
            guided[slot], unguided[slot], guidance[slot] = own[0], own[-1], active.engine_request.guidance
            matrices[slot] = sampler_matrices.matrices[call]
        for tensor, values in (
            (self._places, places),
            (self._numbers, numbers),
            (self.matrices, matrices),
        ):
            tensor.copy_(moved(torch.from_numpy(values), tensor.device))
