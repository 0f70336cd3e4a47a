"""Cutting requests into batches of one fixed shape, so that an image never depends on its neighbours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

MAX_SEED = 2**64 - 1
_LOW = 2**32 - 1
# Where the state of torch's CPU generator, as 64-bit words, has those of the twister (CPUGeneratorImpl.cpp).
_TWISTER = slice(3, 627)

Request = TypeVar("Request")


@dataclass(frozen=True)
class Chunk(Generic[Request]):
    """As many requests as the batch has rows; those after the first `real` only fill it."""

    rows: list[Request]
    real: int


def padded(requests: Sequence[Request], rows: int) -> Iterator[Chunk[Request]]:
    """Cuts `requests` into chunks of exactly `rows`, the last one filled with its last request."""
    if rows < 1:
        raise ValueError(f"a batch needs at least one row, not {rows}")
    for start in range(0, len(requests), rows):
        part = list(requests[start : start + rows])
        yield Chunk(part + part[-1:] * (rows - len(part)), real=len(part))


def seeded(seed: int) -> torch.Generator:
    """The generator of one image, on the CPU, so that every device draws the same noise from `seed`.

    `seed` is 0..2**64-1. torch's own seeding of its Mersenne Twister takes the lower 32 bits alone; from 2**32 up, both
    halves make the twister's state, by `init_by_array` of Matsumoto and Nishimura (2002).
    """
    check_seed(seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    if seed > _LOW:
        state = generator.get_state()
        state.view(torch.int64)[_TWISTER] = _twister([seed & _LOW, seed >> 32])
        generator.set_state(state)
    return generator


def _twister(key: Sequence[int]) -> torch.Tensor:
    """The 624 words that NumPy's twister, which is the same, has after it was seeded with an array."""
    words = np.random.RandomState(list(key)).get_state(legacy=False)["state"]["key"]
    return torch.from_numpy(words.astype(np.int64))


def check_seed(seed: int) -> None:
    """Raises ValueError for what is no seed."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"a seed is a whole number in 0..2**64-1, not {seed}")


def draw(generator: torch.Generator, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise, float32 on the CPU."""
    return torch.randn(tuple(shape), generator=generator)


def moved(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the CPU on the device, without waiting for it."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
