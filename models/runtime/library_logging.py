"""Keeps the libraries from chattering while nightmill uses them."""

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
    """Within it, diffusers, transformers and bitsandbytes show errors only and draw no progress bars."""
    libraries = _libraries()
    packing = logging.getLogger("bitsandbytes")  # it misses kernels that nothing here uses
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
    """What sets the tone of the libraries, which are imported at the first call.

    diffusers and peft would import bitsandbytes, which compiles at its import: a second and 50 MB that only those who
    pack weights need, and they import it themselves.
    """
    is_here = find_spec("bitsandbytes") is not None and "bitsandbytes" not in sys.modules
    if is_here:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # as if it weren't installed
    try:
        from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415 - slow to import
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415

        if find_spec("peft"):
            import peft  # noqa: F401, PLC0415 - now, so that it doesn't find it either
    finally:
        if is_here:
            del sys.modules["bitsandbytes"]
    return diffusers_logging, transformers_logging


@contextmanager
def old_numpy_habits() -> Iterator[None]:
    """Within it, NumPy 2 doesn't warn of the way in which diffusers' schedulers make an array of a tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning
        )
        yield
