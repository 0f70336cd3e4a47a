"""Batches of one fixed shape and per-image random generators, so that an image is independent of its batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

MAX_SEED = 2**64 - 1
_LOW = 2**32 - 1
# Position of the Mersenne Twister's words in the state of torch's CPU generator, as 64-bit words
# (CPUGeneratorImpl.cpp).
_TWISTER = slice(3, 627)

Request = TypeVar("Request")


@dataclass(frozen=True)
class Chunk(Generic[Request]):
    """A batch of fixed size: requests after the first `real` are padding."""

    rows: list[Request]
    real: int


def padded(requests: Sequence[Request], rows: int) -> Iterator[Chunk[Request]]:
    """Split `requests` into chunks of exactly `rows`, padding the last one with its last request."""
    if rows < 1:
        raise ValueError(f"a batch needs at least one row, not {rows}")
    for start in range(0, len(requests), rows):
        part = list(requests[start : start + rows])
        yield Chunk(part + part[-1:] * (rows - len(part)), real=len(part))


def seeded(seed: int) -> torch.Generator:
    """Return the generator of one image, on the CPU, so that every device draws the same noise from `seed`.

    `seed` is 0..2**64-1. torch seeds its Mersenne Twister with the lower 32 bits alone; from 2**32 up, both halves are
    used, with `init_by_array` of Matsumoto and Nishimura (2002).
    """
    check_seed(seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    if seed > _LOW:
        state = generator.get_state()
        state.view(torch.int64)[_TWISTER] = _twister([seed & _LOW, seed >> 32])
        generator.set_state(state)
    return generator


def _twister(key: Sequence[int]) -> torch.Tensor:
    """Return the 624 state words of NumPy's Mersenne Twister, the same algorithm, after seeding with an array."""
    words = np.random.RandomState(list(key)).get_state(legacy=False)["state"]["key"]
    return torch.from_numpy(words.astype(np.int64))


def check_seed(seed: int) -> None:
    """Raise ValueError if `seed` is out of range."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"a seed is a whole number in 0..2**64-1, not {seed}")


def draw(generator: torch.Generator, shape: Sequence[int]) -> torch.Tensor:
    """Draw standard normal noise, float32 on the CPU."""
    return torch.randn(tuple(shape), generator=generator)


def moved(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a CPU tensor to the device without waiting for it."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
