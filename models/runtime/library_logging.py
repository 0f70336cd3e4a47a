"""Silence log messages, progress bars and warnings of diffusers, transformers and bitsandbytes."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Make diffusers, transformers and bitsandbytes log errors only and show no progress bars."""
    libraries = _libraries()
    packing = logging.getLogger("bitsandbytes")  # it warns of missing kernels that are not used here
    packing_level = packing.level
    packing.setLevel(logging.ERROR)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        packing.setLevel(packing_level)
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


@cache
def _libraries() -> tuple[Any, ...]:
    """Import the libraries' logging modules at the first call.

    diffusers and peft would import bitsandbytes, which compiles code at import time: a second and 50 MB that only
    packed weights need, and the code that packs them imports it itself.
    """
    is_here = find_spec("bitsandbytes") is not None and "bitsandbytes" not in sys.modules
    if is_here:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # makes imports of it fail
    try:
        from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415 - slow to import
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415

        if find_spec("peft"):
            import peft  # noqa: F401, PLC0415 - imported now, while bitsandbytes is hidden
    finally:
        if is_here:
            del sys.modules["bitsandbytes"]
    return diffusers_logging, transformers_logging


@contextmanager
def old_numpy_habits() -> Iterator[None]:
    """Suppress NumPy 2's warning about the way in which diffusers' schedulers convert a tensor to an array."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning
        )
        yield
