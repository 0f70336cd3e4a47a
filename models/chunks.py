"""Cutting requests into batches of one fixed shape, so that an image never depends on its neighbours."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

MAX_SEED = 2**64 - 1

_PIXELS_AT_ONCE = 2**20

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


def check_alike(requests: Sequence[Request], key: Callable[[Request], dict[str, object]]) -> None:
    """Raises ValueError naming the first part of `key` in which the requests differ."""
    first = key(requests[0])
    for request in requests[1:]:
        for name, value in key(request).items():
            if value != first[name]:
                raise ValueError(
                    f"requests of one call must share {name}, but have {first[name]!r} and {value!r}"
                )


def seeded(seed: int) -> torch.Generator:
    """The generator of one image, on the CPU, so that every device draws the same noise from `seed`.

    `seed` is 0..2**64-1, but torch's CPU generator (a Mersenne Twister) starts from its lower 32 bits alone:
    seeds that are equal modulo 2**32 draw the same noise.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"a seed is a whole number in 0..2**64-1, not {seed}")
    return torch.Generator("cpu").manual_seed(seed)


def draw(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise (N, *shape), float32 on the CPU, each row from its own one of N generators."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def in_slices(batch: torch.Tensor, area: int) -> tuple[torch.Tensor, ...]:
    """Cuts a batch of pictures of `area` pixels into the fewest slices of equal shape that bound the pixels at once."""
    rows = len(batch)
    number = next(
        number
        for number in range(1, rows + 1)
        if rows % number == 0 and (number == rows or rows // number * area <= _PIXELS_AT_ONCE)
    )
    return batch.chunk(number)
