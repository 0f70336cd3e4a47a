"""Base images made by debootstrap, for machines that reach Debian's packages and no registry of images."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGES = {"base": "ca-certificates,python3", "build": "binutils,ca-certificates,python3,python3-venv"}
"""As the official images of Python: the slim one, and the one with a compiler's tools."""
UNUSED = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "var/log",
)
"""What the official slim images leave out, too."""


def debian_images(builder: Any, release: str) -> list[str]:
    """Return the build's arguments that name the two images, which are made if they aren't there."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit(
            "give a base that is here with --python-image and --build-image, or run this as root with debootstrap "
            "(apt-get install debootstrap)"
        )
    names = {kind: f"localhost/nightmill-{kind}:{release}" for kind in PACKAGES}
    for kind, name in names.items():
        if builder.run("inspect", "--type", "image", name, capture_output=True).returncode:
            _make(builder, name, release, PACKAGES[kind])
    return [f"PYTHON_IMAGE={names['base']}", f"BUILD_IMAGE={names['build']}"]


def _make(builder: Any, name: str, release: str, packages: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={packages}",
            release,
            str(root),
            *_mirror(),
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            sys.exit(f"debootstrap: {made.stdout[-500:]}{made.stderr[-500:]}")
        for unused in UNUSED:
            shutil.rmtree(root / unused, ignore_errors=True)
            (root / unused).mkdir(parents=True)
        archive = Path(folder) / "root.tar"
        subprocess.run(["tar", "--create", "-C", root, "--file", archive, "."], check=True)
        container = builder.run("from", "scratch", capture_output=True).stdout.strip()
        builder.run("add", "--quiet", container, str(archive), "/", capture_output=True)
        builder.run("commit", "--quiet", "--rm", container, name, capture_output=True)


def _mirror() -> list[str]:
    """Where this machine's apt gets its packages, if it says so."""
    if not shutil.which("apt-get"):
        return []
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=False
    )
    return [address for address in said.stdout.split() if "security" not in address][:1]
