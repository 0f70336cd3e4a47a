"""Sampler steps as matrices, extracted from diffusers' own schedulers.

Every supported sampler computes the next latents and its internal state as linear combinations of the latents, its
state, the model's output and fresh noise, with coefficients that depend on the step alone. So a step of any of them is
a small matrix, and images with different samplers and step counts are advanced in one batched product.
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
"""The latents and the samplers' state: the four outputs that PNDM keeps and, within a step, the latents before it."""

KEPT = 256

_OUTPUT, _NOISE, WIDTH = REGISTERS, REGISTERS + 1, REGISTERS + 2
_UNITS = torch.eye(WIDTH).view(WIDTH, 1, WIDTH, 1, 1)
_PROBING = threading.Lock()


@dataclass(frozen=True, eq=False)
class SamplerMatrices:
    """Timesteps, input scales and step matrices for the N UNet calls of an image.

    Call n reads `scales[n]` times register 0 at `timesteps[n]`. The next register values are `matrices[n]`, (REGISTERS,
    REGISTERS + 2), times the registers, the output and the noise; noise is drawn where `is_noisy[n]`. Before the first
    call, register 0 holds the initial latents and the others zeros. The initial latents are noise times
    `of_noise_alone` or, when denoising starts from an image, its latents times `of_image` plus noise times
    `of_noise`. All float32.
    """

    timesteps: npt.NDArray[np.float32]
    scales: npt.NDArray[np.float32]
    matrices: npt.NDArray[np.float32]
    is_noisy: npt.NDArray[np.bool_]
    of_noise_alone: float
    of_image: float
    of_noise: float

    def __len__(self) -> int:
        """Number of UNet calls: one per step, or more with samplers that evaluate the model twice per step."""
        return len(self.timesteps)


@dataclass(frozen=True, eq=False)
class SamplerMatricesCache:
    """Cache of the matrices of one checkpoint, whose scheduler configuration is `config`; keeps up to 256 entries."""

    config: Mapping[str, Any]
    _kept: dict[tuple[str, int, float | None], SamplerMatrices] = field(default_factory=dict)

    def of(self, sampler: str, steps: int, strength: float | None = None) -> SamplerMatrices:
        """Return the matrices for `steps` steps or, when starting from an image, for those that `strength` leaves.

        Raises ValueError as `make_scheduler` and `start_late` do, and for a sampler whose steps are not linear.
        """
        key = sampler, steps, strength
        if key not in self._kept:
            self._kept[key] = self._computed(sampler, steps, strength)
        found = self._kept[key]
        if len(self._kept) > KEPT:  # strength differs from row to row, so the keys are unbounded
            self._kept.pop(next(iter(self._kept)))
        return found

    def _computed(self, sampler: str, steps: int, strength: float | None) -> SamplerMatrices:
        scheduler, timesteps = self._ready(sampler, steps, strength)
        if any(scheduler.config.get(name) for name in ("thresholding", "clip_sample")):
            raise ValueError(
                f"the sampler {sampler!r} of this checkpoint cuts values off, which isn't served"
            )
        scales, matrices = _probe(self._ready(sampler, steps, strength)[0], timesteps)
        of_image, of_noise = noise_shares(scheduler, timesteps[:1])
        return SamplerMatrices(
            timesteps=timesteps.numpy().astype(np.float32),
            scales=scales,
            matrices=matrices,
            is_noisy=np.asarray(matrices[:, :, _NOISE].any(axis=1)),
            of_noise_alone=float(scheduler.init_noise_sigma),
            of_image=of_image,
            of_noise=of_noise,
        )

    def _ready(self, sampler: str, steps: int, strength: float | None) -> tuple[Any, torch.Tensor]:
        scheduler = make_scheduler(sampler, self.config, steps)
        return scheduler, scheduler.timesteps if strength is None else start_late(scheduler, steps, strength)


def noise_shares(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float]:
    """Return the factors of an image and of noise with which the scheduler noises the image to `timestep`, (1,)."""
    mixed = scheduler.add_noise(_UNITS[:1, :, :2], _UNITS[1:2, :, :2], timestep).flatten()
    return float(mixed[0]), float(mixed[1])


def _probe(
    scheduler: Any, timesteps: torch.Tensor
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return scales and matrices by running the scheduler on unit vectors, one per register, output and noise."""
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
    """Replace the scheduler's stored latents by unit vectors, in the order of the registers."""
    units = dict(zip(_remembered(scheduler), _UNITS[1:REGISTERS], strict=False))
    for name, value in vars(scheduler).items():
        if isinstance(value, list):
            value[:] = [units.get(id(item), item) for item in value]
        elif id(value) in units:
            setattr(scheduler, name, units[id(value)])


def _remembered(scheduler: Any) -> dict[int, torch.Tensor]:
    """Return the latents that the scheduler stores for later steps, each once, keyed by id."""
    kept: dict[int, torch.Tensor] = {}
    for value in vars(scheduler).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, torch.Tensor) and item.shape == _UNITS[0].shape:
                kept.setdefault(id(item), item)
    return kept


@contextmanager
def _noise_is_a_unit(scheduler: Any) -> Iterator[None]:
    """Within it, the scheduler's module draws the noise's unit vector instead of random noise."""
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
