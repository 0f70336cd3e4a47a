"""`make image`: it builds with what is there, from the package index of pip's configuration, which it tells nobody."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.paths import ROOT

FOLDER = ROOT / "infra" / "docker"
INDEX = "https://user:hunter2@mirror.example/simple"
FAKE_BUILDER = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$1" in images) printf 'REPOSITORY TAG ID CREATED SIZE\\nx y z now 348 MB\\n';; esac
"""


def load(name: str) -> ModuleType:
    """A script of infra/docker; it is no part of a package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def build(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script where no program is on the PATH but those in `bin`."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, FOLDER / "build_image.py", *arguments],
        env={"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "LOG": str(tmp_path / "log")}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def add_program(tmp_path: Path, name: str, text: str = FAKE_BUILDER) -> None:
    (tmp_path / "bin").mkdir(exist_ok=True)
    program = tmp_path / "bin" / name
    program.write_text(text.replace("$(basename", "$(/usr/bin/basename"))
    program.chmod(0o755)


def test_without_a_builder_it_says_how_to_get_one(tmp_path: Path) -> None:
    add_program(tmp_path, "docker", "#!/bin/sh\nexit 1\n")  # a client whose daemon is away
    ended = build(tmp_path)
    assert ended.returncode == 1
    assert "apt-get install buildah" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_docker_builds_both_images_from_the_default_bases(tmp_path: Path) -> None:
    add_program(tmp_path, "docker")
    ended = build(tmp_path, "--torch", "cpu", "--tag", "try")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["nightmill-server:try: 348 MB", "nightmill-worker:try-cpu: 348 MB"]
    builds = [line for line in (tmp_path / "log").read_text().splitlines() if " build " in line]
    assert ["--target server" in builds[0], "--target worker" in builds[1]] == [True, True]
    assert all("TORCH=cpu" in line and "PYTHON_IMAGE" not in line for line in builds)
    assert all(f"--file {FOLDER / 'Dockerfile'} {ROOT}" in line for line in builds)


def test_bases_of_ones_own_come_in_pairs(tmp_path: Path) -> None:
    add_program(tmp_path, "docker")
    ended = build(tmp_path, "server", "--python-image", "own/python")
    assert (ended.returncode, "belong together" in ended.stderr) == (2, True)
    ended = build(tmp_path, "server", "--python-image", "own/python", "--build-image", "own/build")
    assert ended.returncode == 0
    assert "PYTHON_IMAGE=own/python --build-arg BUILD_IMAGE=own/build" in (tmp_path / "log").read_text()


def test_the_index_is_handed_over_as_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", INDEX)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://other.example/simple file:///gone/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CERT", "/etc/own.crt")
    options = load("package_index").PackageIndex.of_pip().options(tmp_path)
    given = " ".join(options)
    assert "hunter2" not in given
    assert f"--build-context wheels={wheels}" in given
    assert "--secret id=ca_bundle,src=/etc/own.crt" in given
    pip, uv = ((tmp_path / name).read_text() for name in ("pip.conf", "uv.toml"))
    assert f"index-url = {INDEX}\nextra-index-url = https://other.example/simple\ncert = /etc/ssl" in pip
    assert (
        uv
        == f'index-url = "{INDEX}"\nextra-index-url = ["https://other.example/simple"]\nsystem-certs = true\n'
    )


def test_where_pip_has_its_defaults_the_build_has_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = load("package_index").PackageIndex().options(tmp_path)
    assert "ca_bundle" not in " ".join(options)
    assert ((tmp_path / "pip.conf").read_text(), (tmp_path / "uv.toml").read_text()) == ("[global]\n", "")


def test_a_library_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "numpy.libs" / "libbroken.so.1"
    broken.parent.mkdir()
    broken.write_bytes(b"\x7fELF, and no more")
    command = [sys.executable, FOLDER / "check_libraries.py", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.startswith(f"{broken}: ")) == (1, True)
    broken.unlink()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
