"""Measuring in turns, since machines are noisy."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from bench.harness.progress import note


@dataclass(frozen=True)
class Samples:
    """What each measurement gave, one number a round."""

    values: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """The middle one of a measurement's numbers."""
        return median(self.values[name])

    def ratio(self, name: str, other: str) -> float:
        """The median over the rounds of one measurement divided by the other of the same round."""
        pairs = zip(self.values[name], self.values[other], strict=True)
        return median(value / base for value, base in pairs)


def take_turns(rounds: int, measurements: Mapping[str, Callable[[], float]]) -> Samples:
    """Take all measurements once a round, in the order A B, B A, …

    Where a machine becomes slower all the while, who is always second would be at a disadvantage.
    """
    values: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(1, rounds + 1):
        names = list(measurements)
        for name in names if number % 2 else reversed(names):
            values[name].append(measurements[name]())
            note(f"round {number} of {rounds}: {name} {values[name][-1]:,.4g}")
    return Samples(values)


def repeat(rounds: int, measure: Callable[[], Mapping[str, float]]) -> Samples:
    """Take a measurement that gives several numbers once a round."""
    values: dict[str, list[float]] = {}
    for number in range(1, rounds + 1):
        for name, value in measure().items():
            values.setdefault(name, []).append(value)
            note(f"round {number} of {rounds}: {name} {value:,.4g}")
    return Samples(values)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes by the wall clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
