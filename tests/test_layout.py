"""The layout of the code: layers, no import circles, folders that a reader can take in at a glance."""

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.paths import ROOT

PACKAGES = ("jobs", "models", "worker", "scheduler", "console", "bench")
MOST_FILES = 15


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """For each module the modules of ours that it imports."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def circle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """One import circle, or an empty list."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def siblings(importer: str, imported: str) -> tuple[str, str]:
    """The two that lie in one folder, each a file or a folder, and hold these modules."""
    first, second = importer.split("."), imported.split(".")
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    return ".".join(first[: shared + 1]), ".".join(second[: shared + 1])


def test_files_import_one_another_in_no_circle(imports: dict[str, set[str]]) -> None:
    assert circle(imports) == []


def test_folders_import_one_another_in_no_circle(imports: dict[str, set[str]]) -> None:
    between: dict[str, set[str]] = defaultdict(set)
    for importer, found in imports.items():
        for imported in found:
            one, other = siblings(importer, imported)
            if one != other:
                between[one].add(other)
    assert circle(between) == []


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert siblings("jobs.queue.lane_counts_and_low_watermarks", "jobs.db.engine") == (
        "jobs.queue",
        "jobs.db",
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_holds_more_files_than_one_can_look_through(package: str) -> None:
    folders = [path for path in (ROOT / package).rglob("*") if path.is_dir()] + [ROOT / package]
    counts = {folder: len(files(folder)) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_every_folder_with_modules_is_installed() -> None:
    """What is no package is left out of the wheel, and an installation in place doesn't tell."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    tops = [pattern.removesuffix("*") for pattern in found["include"]]
    folders = {path.parent for top in tops for path in (ROOT / top).rglob("*.py")}
    assert set(PACKAGES) <= set(tops)
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()


def files(folder: Path) -> list[Path]:
    """The Python files right in a folder, `__init__.py` aside."""
    return [path for path in folder.glob("*.py") if path.name != "__init__.py"]
