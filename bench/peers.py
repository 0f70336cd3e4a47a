"""Placeholder until the peers are measured."""

from bench.place import Place


def procrastinate_rate(place: Place, jobs: int) -> float | None:
    return None


def pgqueuer_rate(place: Place, jobs: int) -> float | None:
    return None
