"""`make image`: build the images `nightmill-server` and `nightmill-worker` with Docker, Podman or Buildah.

The build asks the package index that pip is configured for on this machine, with its certificates and its folder of
wheels; nothing of that is in the images. Where Buildah reaches no registry, the base is a Debian made by debootstrap.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from debian_base import debian_images
from package_index import PackageIndex

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
TARGETS = ("server", "worker")
NO_BUILDER = (
    "none of docker, podman and buildah works here: start the Docker daemon, or install Buildah, which needs none "
    "(apt-get install buildah; dnf install buildah)"
)


@dataclass(frozen=True)
class Builder:
    """A program that builds images, and the options that come before and after its command."""

    name: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def run(self, *arguments: str, **given: bool) -> subprocess.CompletedProcess[str]:
        """Run one of its commands."""
        return subprocess.run([self.name, *self.before, *arguments], text=True, check=False, **given)

    def build(self, options: Sequence[str]) -> None:
        """Build from the Dockerfile; ends this program if that fails."""
        if self.run("build", *self.after, *options, "--file", str(DOCKERFILE), str(ROOT)).returncode:
            sys.exit(f"{self.name} could not build the image")

    def has(self, image: str) -> bool:
        """Whether the image is here or can be had from a registry."""
        found = self.run("inspect", "--type", "image", image, capture_output=True)
        return (
            found.returncode == 0 or self.run("pull", "--quiet", image, capture_output=True).returncode == 0
        )

    def size(self, image: str) -> str:
        """The size of an image that was built."""
        kept = [line.split() for line in self.run("images", image, capture_output=True).stdout.splitlines()]
        return " ".join(kept[1][-2:]) if len(kept) > 1 else "unknown"


def main() -> None:
    """Build the targets that are named."""
    options = _arguments()
    builder = _builder(options.storage)
    images = [f"PYTHON_IMAGE={options.python_image}", f"BUILD_IMAGE={options.build_image}"]
    if not options.python_image:
        images = _base_images(builder, options.debian)
    with tempfile.TemporaryDirectory() as folder:
        index = PackageIndex.of_pip().options(Path(folder))
        for target in options.targets:
            variant = "-cpu" if target == "worker" and options.torch == "cpu" else ""
            tag = f"nightmill-{target}:{options.tag}{variant}"
            arguments = [*images, *_labels(), f"TORCH={options.torch}", *_torch_index(options.torch_index)]
            given = [part for argument in arguments for part in ("--build-arg", argument)]
            builder.build([*index, *given, "--target", target, "--tag", tag])
            print(f"{tag}: {builder.size(tag)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make image", description=__doc__)
    parser.add_argument("targets", nargs="*", default=TARGETS, choices=[*TARGETS, TARGETS], metavar="TARGET")
    parser.add_argument("--torch", default="cuda", choices=["cuda", "cpu"], help="PyTorch of the worker")
    parser.add_argument("--torch-index", default="", help="package index that has PyTorch without CUDA")
    parser.add_argument("--python-image", default="", help="base of the images")
    parser.add_argument("--build-image", default="", help="the same Python, with `strip`")
    parser.add_argument("--debian", default="trixie", help="release to make a base of where no registry is")
    parser.add_argument("--storage", type=Path, help="folder of Buildah's images")
    parser.add_argument(
        "--tag",
        default=_version(),
        help="of the images, for a worker without CUDA with -cpu behind; default: nightmill's version",
    )
    options = parser.parse_args()
    if bool(options.python_image) != bool(options.build_image):
        parser.error("--python-image and --build-image belong together: they hold the same Python")
    return options


def _builder(storage: Path | None) -> Builder:
    """The first program that is there and works; Docker's client alone builds nothing."""
    if storage is None:
        for name in ("docker", "podman"):
            if shutil.which(name) and _works(name):
                return Builder(name)
    if not shutil.which("buildah"):
        sys.exit(NO_BUILDER)
    kept = ("--root", f"{storage}/images", "--runroot", f"{storage}/run") if storage else ()
    # Docker's format has the health check; this isolation works in a container and without a runtime, too. No --layers:
    # Buildah would reuse layers although what their commands mount has changed.
    return Builder("buildah", kept, ("--format", "docker", "--isolation", "chroot", "--network", "host"))


def _works(name: str) -> bool:
    return subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0


def _base_images(builder: Builder, debian: str) -> list[str]:
    """No argument where the Dockerfile's own bases can be had, else those of a Debian that is made here."""
    default = next(
        line.split("=", 1)[1]
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("ARG PYTHON_IMAGE=")
    )
    if builder.has(default):
        return []
    if builder.name != "buildah":
        sys.exit(
            f"{builder.name} can't pull {default}; give another base with --python-image and --build-image"
        )
    print(f"{default} can't be pulled: making a base of Debian {debian}")
    return debian_images(builder, debian)


def _labels() -> list[str]:
    revision, created = (_git("log", "-1", f"--format={form}") or "unknown" for form in ("%H", "%cI"))
    return [f"VERSION={_version()}", f"REVISION={revision}", f"CREATED={created}"]


def _git(*arguments: str) -> str:
    """What git says of the clone; "" where there is no git or no clone."""
    if not shutil.which("git"):
        return ""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _torch_index(given: str) -> list[str]:
    return [f"TORCH_INDEX={given}"] if given else []


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


if __name__ == "__main__":
    main()
