"""A safety checker without torch for the stub models; it goes wrong at images whose prompts ask for it.

A prompt that holds the word `unsafe` gives an image that is flagged; `fault:check-KIND` makes the checker fail at it.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from models.errors import OutOfMemoryError

UNSAFE = "unsafe"
CHECK = "check-"
"""What the kinds of faults of the checker begin with."""


class Fault(Protocol):
    """The fault that a prompt asks for, as `tests.chaos.stub.Fault` is one."""

    kind: str

    def strikes(self, kind: str) -> bool:
        """Whether it is of this kind and still to come."""


@dataclass(frozen=True)
class Scores:
    """What the real checker returns for one image."""

    flagged: bool = False
    concepts: tuple[float, ...] = (-0.1,) * 17
    special_care: tuple[float, ...] = (-0.1,) * 3


SAFE = Scores()
FLAGGED = Scores(True, (0.1, *SAFE.concepts[1:]))


class StubSafetyChecker:
    """Knows the images of this process that have something about them by their pixels."""

    digest = None
    concept_names = ()

    def __init__(self) -> None:
        self._drawn: dict[bytes, tuple[bool, Fault]] = {}

    def note(self, pixels: Any, prompt: str, fault: Fault) -> None:
        """Take note of an image that was drawn, if it is unsafe or has a fault of the checker."""
        is_unsafe = UNSAFE in prompt.split()
        if is_unsafe or fault.kind.startswith(CHECK):
            self._drawn[pixels.tobytes()] = is_unsafe, fault

    def score(self, pictures: Sequence[Any]) -> list[Scores]:
        """Score the images as the prompts say, or go wrong at one of them."""
        known = [self._drawn.get(np.asarray(picture).tobytes()) for picture in pictures]
        for _, fault in filter(None, known):
            if fault.kind == f"{CHECK}narrow" and len(pictures) > 1:
                raise OutOfMemoryError(f"no memory left to check {len(pictures)} images")
            for kind, happen in _BREAKS.items():
                if fault.strikes(CHECK + kind):
                    happen()
        return [scores for one in known if (scores := _scores(one))]


def _scores(known: tuple[bool, Fault] | None) -> Scores | None:
    """Return an image's scores, damaged if it asks for that; None: the checker forgets the image."""
    if known is None:
        return SAFE
    is_unsafe, fault = known
    scores = FLAGGED if is_unsafe else SAFE
    if fault.strikes(f"{CHECK}forgotten"):
        return None
    for kind, damage in _DAMAGES.items():
        if fault.strikes(CHECK + kind):
            return damage(scores)
    return scores


def _raise() -> None:
    raise RuntimeError("shape mismatch in the vision model")


def _run_out_of_memory() -> None:
    raise OutOfMemoryError("no memory left to check even one image")


def _die() -> None:
    """Die some time into the check, while the worker renders what it has claimed next."""
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


_BREAKS: dict[str, Callable[[], object]] = {
    "exception": _raise,
    "oom": _run_out_of_memory,
    "kill": _die,
    # Lets go of the interpreter, so that the leases are renewed all the time.
    "hang": lambda: time.sleep(3600),
}

_DAMAGES: dict[str, Callable[[Scores], Scores]] = {
    "nan": lambda scores: replace(scores, concepts=(math.nan,) * 17),
    "nan-care": lambda scores: replace(scores, special_care=(0.1, math.nan, -0.1)),
    "few": lambda scores: replace(scores, concepts=scores.concepts[:16]),
    "few-care": lambda scores: replace(scores, special_care=(0.1,)),
}
