"""A sampler's steps as numbers, read off diffusers' own scheduler.

Every sampler that is served makes the next latents, and whatever it remembers, as sums: the latents, what it
remembered, the model's output and fresh noise, each times a number that depends on the step alone. So a step of any
of them is a small matrix, and images of different samplers and step counts take theirs in one product.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.engine.schedulers import make_scheduler, start_late

REGISTERS = 6
"""Latents, and what samplers remember beside them: of PNDM's four outputs, and for a step the latents before."""

KEPT = 256

_OUTPUT, _NOISE, WIDTH = REGISTERS, REGISTERS + 1, REGISTERS + 2
_UNITS = torch.eye(WIDTH).view(WIDTH, 1, WIDTH, 1, 1)
_PROBING = threading.Lock()


@dataclass(frozen=True, eq=False)
class SamplerMatrices:
    """The N UNet calls of an image.

    Call n reads `scales[n]` times register 0 at `timesteps[n]`. The registers after it are `matrices[n]`, (REGISTERS,
    REGISTERS + 2), times registers, output and noise; noise is drawn where `is_noisy[n]`. Before the first call,
    register 0 holds the latents, and the others zeros: noise times `of_noise_alone`, or where it starts from a
    picture, its latents times `of_picture` and noise times `of_noise`. All float32.
    """

    timesteps: npt.NDArray[np.float32]
    scales: npt.NDArray[np.float32]
    matrices: npt.NDArray[np.float32]
    is_noisy: npt.NDArray[np.bool_]
    of_noise_alone: float
    of_picture: float
    of_noise: float

    def __len__(self) -> int:
        """UNet calls: as many as steps, or more with samplers that look twice."""
        return len(self.timesteps)


@dataclass(frozen=True, eq=False)
class SamplerMatricesCache:
    """Those of one checkpoint, whose own scheduler has `config`; the last 256 that were computed are kept."""

    config: Mapping[str, Any]
    _kept: dict[tuple[str, int, float | None], SamplerMatrices] = field(default_factory=dict)

    def of(self, sampler: str, steps: int, strength: float | None = None) -> SamplerMatrices:
        """That of `steps` steps, or of those that `strength` leaves of them for a start from a picture.

        Raises ValueError as `make_scheduler` and `start_late` do, and for a sampler whose steps are no such sums.
        """
        key = sampler, steps, strength
        if key not in self._kept:
            self._kept[key] = self._computed(sampler, steps, strength)
        found = self._kept[key]
        if len(self._kept) > KEPT:  # rows may have any strength
            self._kept.pop(next(iter(self._kept)))
        return found

    def _computed(self, sampler: str, steps: int, strength: float | None) -> SamplerMatrices:
        scheduler, timesteps = self._ready(sampler, steps, strength)
        if any(scheduler.config.get(name) for name in ("thresholding", "clip_sample")):
            raise ValueError(
                f"the sampler {sampler!r} of this checkpoint cuts values off, which isn't served"
            )
        scales, matrices = _probe(self._ready(sampler, steps, strength)[0], timesteps)
        of_picture, of_noise = noise_shares(scheduler, timesteps[:1])
        return SamplerMatrices(
            timesteps=timesteps.numpy().astype(np.float32),
            scales=scales,
            matrices=matrices,
            is_noisy=np.asarray(matrices[:, :, _NOISE].any(axis=1)),
            of_noise_alone=float(scheduler.init_noise_sigma),
            of_picture=of_picture,
            of_noise=of_noise,
        )

    def _ready(self, sampler: str, steps: int, strength: float | None) -> tuple[Any, torch.Tensor]:
        scheduler = make_scheduler(sampler, self.config, steps)
        return scheduler, scheduler.timesteps if strength is None else start_late(scheduler, steps, strength)


def noise_shares(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float]:
    """What the scheduler multiplies a picture and noise by to make the one as noisy as at `timestep`, (1,)."""
    mixed = scheduler.add_noise(_UNITS[:1, :, :2], _UNITS[1:2, :, :2], timestep).flatten()
    return float(mixed[0]), float(mixed[1])


def _probe(
    scheduler: Any, timesteps: torch.Tensor
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Scales and matrices: what the scheduler makes of unit vectors, one for each register, output and noise."""
    scales = np.zeros(len(timesteps), np.float32)
    matrices = np.zeros((len(timesteps), REGISTERS, WIDTH), np.float32)
    for number, timestep in enumerate(timesteps):
        _put_units(scheduler)
        scales[number] = scheduler.scale_model_input(_UNITS[0], timestep)[0, 0, 0, 0]
        with _noise_is_a_unit(scheduler):
            latents = scheduler.step(_UNITS[_OUTPUT], timestep, _UNITS[0], return_dict=False)[0]
        for register, values in enumerate([latents, *_remembered(scheduler).values()]):
            if register == REGISTERS:
                raise ValueError(f"{type(scheduler).__name__} remembers more than {REGISTERS - 1} latents")
            matrices[number, register] = values.flatten()
    return scales, matrices


def _put_units(scheduler: Any) -> None:
    """Have the scheduler remember unit vectors in place of what it remembers, in the order of the registers."""
    units = dict(zip(_remembered(scheduler), _UNITS[1:REGISTERS], strict=False))
    for name, value in vars(scheduler).items():
        if isinstance(value, list):
            value[:] = [units.get(id(item), item) for item in value]
        elif id(value) in units:
            setattr(scheduler, name, units[id(value)])


def _remembered(scheduler: Any) -> dict[int, torch.Tensor]:
    """The latents that it keeps for later steps, each once, by their ids."""
    kept: dict[int, torch.Tensor] = {}
    for value in vars(scheduler).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, torch.Tensor) and item.shape == _UNITS[0].shape:
                kept.setdefault(id(item), item)
    return kept


@contextmanager
def _noise_is_a_unit(scheduler: Any) -> Iterator[None]:
    """Within it, the scheduler's module draws the noise's unit vector."""
    module = sys.modules[type(scheduler).__module__]
    if not hasattr(module, "randn_tensor"):
        yield
        return
    with _PROBING:
        drawn = module.randn_tensor
        module.randn_tensor = lambda *_, **__: _UNITS[_NOISE]  # type: ignore[attr-defined]
        try:
            yield
        finally:
            module.randn_tensor = drawn  # type: ignore[attr-defined]
