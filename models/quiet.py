"""Keeps the libraries from chattering while nightmill uses them."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, diffusers, transformers and bitsandbytes show errors only and draw no progress bars."""
    from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415 - slow to import
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    libraries = (diffusers_logging, transformers_logging)
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


@contextmanager
def old_numpy_habits() -> Iterator[None]:
    """Within it, NumPy 2 doesn't warn of the way in which diffusers' schedulers make an array of a tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning
        )
        yield
