"""What an image's time depends on, and ranges of what was measured of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.policy.batch_policy import BatchPolicy

SPEED_KEYS = ("deep_cache", "weights", "decoder")
"""Keys of the policy that change what an image takes: only batches with the same values are compared."""

LOW, HIGH = 0.2, 0.8
"""The quantiles between which a range lies."""
FEW_QUARTERS = 4
FEW_SPREAD = 1.25
"""With fewer measured quarters of an hour than FEW_QUARTERS, a range reaches at least so far from its middle."""
STEPS_SHARE = 0.5
"""At least this share of an image's time is taken to grow with its steps."""


@dataclass(frozen=True, slots=True)
class WorkKind:
    """A lane's model, mode, LoRAs and sizes, and the batch's options in SPEED_KEYS (None: the default)."""

    model: str
    mode: str
    lora: str
    width: int
    height: int
    upscale: int
    options: tuple[str | None, ...] = (None,) * len(SPEED_KEYS)

    @property
    def without_lora(self) -> "WorkKind":
        """The same without LoRAs, which cost little time."""
        return replace(self, lora="")


def speed_options(policy: BatchPolicy) -> tuple[str | None, ...]:
    """Return the policy's values of SPEED_KEYS as text, None for defaults."""
    fields = BatchPolicy.model_fields
    values: list[Any] = [getattr(policy, key) for key in SPEED_KEYS]
    return tuple(
        None if value == fields[key].default else str(value)
        for key, value in zip(SPEED_KEYS, values, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Range:
    """A quantity that lies between `low` and `high`, as far as it was measured."""

    low: float
    high: float

    def times(self, low: float, high: float) -> "Range":
        """Return the range with its ends multiplied by these."""
        return Range(self.low * low, self.high * high)

    def scaled_by_steps(self, ratio: float) -> "Range":
        """Return the range for `ratio` times the steps: STEPS_SHARE to all of the time grows with them."""
        part = 1 + STEPS_SHARE * (ratio - 1)
        return self.times(min(part, ratio), max(part, ratio))


def range_of(measured: Sequence[tuple[float, float]]) -> Range:
    """Return the range of measured values, each with its weight: from the LOW to the HIGH quantile, wider if few."""
    ordered = sorted(measured)
    low, high = _quantile(ordered, LOW), _quantile(ordered, HIGH)
    if len(ordered) < FEW_QUARTERS:
        middle = sum(value * weight for value, weight in ordered) / sum(weight for _, weight in ordered)
        low, high = min(low, middle / FEW_SPREAD), max(high, middle * FEW_SPREAD)
    return Range(low, high)


def _quantile(ordered: Sequence[tuple[float, float]], share: float) -> float:
    """Return the smallest value that so much of the weight doesn't exceed."""
    wanted, seen = share * sum(weight for _, weight in ordered), 0.0
    for value, weight in ordered:
        seen += weight
        if seen >= wanted:
            return value
    return ordered[-1][0]
