"""Open every shared library below a folder: `strip` breaks some that were patched, others may lack one that is gone.

Run by the Python whose modules they are; exit code 1 names those that can't be opened.
"""

import ctypes
import sys
from pathlib import Path


def main() -> None:
    """Open those of the folder that is named."""
    broken = [f"{path}: {why}" for path in sorted(Path(sys.argv[1]).rglob("*.so*")) if (why := why_not(path))]
    sys.exit("\n".join(broken) or None)


def why_not(path: Path) -> str:
    """Return why the library can't be opened, or ""."""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
