"""Alternating measurements, to cancel out a machine's noise."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from bench.harness.progress import note


@dataclass(frozen=True)
class Samples:
    """The values of each measurement, one per round."""

    values: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median of a measurement's values."""
        return median(self.values[name])

    def ratio(self, name: str, other: str) -> float:
        """Return the median over the rounds of one measurement divided by another one of the same round."""
        pairs = zip(self.values[name], self.values[other], strict=True)
        return median(value / base for value, base in pairs)


def take_turns(rounds: int, measurements: Mapping[str, Callable[[], float]]) -> Samples:
    """Take all measurements once per round, in the order A B, B A, …

    On a machine that becomes steadily slower, always being second would be a disadvantage.
    """
    values: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(1, rounds + 1):
        names = list(measurements)
        for name in names if number % 2 else reversed(names):
            values[name].append(measurements[name]())
            note(f"round {number} of {rounds}: {name} {values[name][-1]:,.4g}")
    return Samples(values)


def repeat(rounds: int, measure: Callable[[], Mapping[str, float]]) -> Samples:
    """Take a measurement that returns several values once per round."""
    values: dict[str, list[float]] = {}
    for number in range(1, rounds + 1):
        for name, value in measure().items():
            values.setdefault(name, []).append(value)
            note(f"round {number} of {rounds}: {name} {value:,.4g}")
    return Samples(values)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock time of `work` in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
