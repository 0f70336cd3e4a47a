"""How long the experiments run: short in every test run, long by `make chaos`."""

import os
from typing import TypeVar

Size = TypeVar("Size", int, float)

# Read once: a fixture of all tests takes NIGHTMILL_* out of the environment.
_LONG = os.environ.get("NIGHTMILL_CHAOS") == "long"


def is_long() -> bool:
    """Whether NIGHTMILL_CHAOS=long was set when the tests began."""
    return _LONG


def scaled(short: Size, long: Size) -> Size:
    """A number of an experiment: `short` in every test run, `long` by `make chaos`."""
    return long if _LONG else short
