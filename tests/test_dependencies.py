"""pyproject.toml names ranges, constraints.txt an exact version of everything that they bring."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from models.optional_packages import EXTRAS
from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = re.compile(r"nightmill\b")
# torch pins NVIDIA's packages itself, and only its build for CUDA has them.
PINNED_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$")


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines if not OWN.match(line)]


def all_requirements() -> list[Requirement]:
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [requirement for lines in lists for requirement in requirements(lines)]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """The version of each distribution in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def brought_by(requirement: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The names of the distributions that the requirement brings here, itself included."""
    for extra in ("", *sorted(requirement.extras)):
        place = canonicalize_name(requirement.name), extra
        if place in seen or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        seen.add(place)
        yield place[0]
        for line in requires(requirement.name) or ():
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                inner.marker = None
                yield from brought_by(inner, seen)


def test_every_requirement_has_a_pin_within_its_range(pins: dict[str, str]) -> None:
    named = all_requirements()
    assert len(named) > 30
    unfit = [str(r) for r in named if pins.get(canonicalize_name(r.name), "") not in r.specifier]
    assert unfit == []


def test_ranges_have_both_ends() -> None:
    """But for the time zones, whose releases are named by the date and change no API."""
    bounds = {r.name: {part.operator for part in r.specifier} for r in all_requirements()}
    assert [name for name, found in bounds.items() if found != {">=", "<"}] == ["tzdata"]


def test_everything_that_they_bring_is_pinned(pins: dict[str, str]) -> None:
    seen: set[tuple[str, str]] = set()
    brought = {name for requirement in all_requirements() for name in brought_by(requirement, seen)}
    assert {"torch", "kombu", "pydantic-core"} <= brought
    assert sorted(name for name in brought - pins.keys() if not PINNED_BY_TORCH.match(name)) == []


def distribution_of(module: str) -> str:
    """The distribution that brings a module; several may share the first part of its name."""
    top, *rest = module.split(".")
    if not rest:
        return packages_distributions()[top][0]
    folder = PurePosixPath(*module.split("."))
    (found,) = {each.name for each in distributions() for file in each.files or () if file.parent == folder}
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_packages_of_an_extra_are_those_that_it_installs(extra: str) -> None:
    """What a message says to install brings what was missing."""
    found = {canonicalize_name(distribution_of(name)) for name in EXTRAS[extra]}
    named = requirements(PROJECT["optional-dependencies"][extra])
    assert found == {canonicalize_name(requirement.name) for requirement in named}
