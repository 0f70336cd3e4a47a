"""A nightmill of which one file differs in one place, to see what follows from that place alone."""

from pathlib import Path

from tests.paths import ROOT

PACKAGES = ("console", "jobs", "migrations", "models", "scheduler", "tests", "worker")


def overlay(folder: Path, module: str, before: str, after: str) -> Path:
    """Make `folder` a source tree in which `module` has `after` for `before`; all else are links. For PYTHONPATH."""
    source = (ROOT / module).read_text(encoding="utf-8")
    assert source.count(before) == 1
    folder.mkdir()
    _link_beside(folder, ROOT, module.split("/"), PACKAGES)
    (folder / module).write_text(source.replace(before, after), encoding="utf-8")
    return folder


def _link_beside(folder: Path, original: Path, path: list[str], names: tuple[str, ...]) -> None:
    """Link everything but the path, whose folders are made."""
    for name in names:
        if name not in (path[0], "__pycache__"):
            (folder / name).symlink_to(original / name)
    if len(path) > 1:
        (folder / path[0]).mkdir()
        inside = original / path[0]
        _link_beside(folder / path[0], inside, path[1:], tuple(entry.name for entry in inside.iterdir()))
