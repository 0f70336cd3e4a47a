"""Packages of other distributions with the names of nightmill's own, which are plain words such as `jobs`.

Uses the standard library only: it is asked when the others can't be imported.
"""

from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

OWN_PACKAGES = ("console", "jobs", "migrations", "models", "scheduler", "worker")
_ROOT = Path(__file__).resolve().parents[1]
ADVICE = "install nightmill in an environment of its own (a venv, uv tool, pipx or a container)"


def clashes() -> list[str]:
    """Return a message for each package that stands in the place of nightmill's, or that nightmill's hides."""
    distributions = packages_distributions()
    return [text for name in OWN_PACKAGES for text in _clashes(name, distributions.get(name, []))]


def _clashes(name: str, owners: list[str]) -> Iterator[str]:
    others = [_described(owner, name) for owner in dict.fromkeys(owners) if owner != "nightmill"]
    place = _imported_from(name)
    if place != _ROOT / name:
        of = f", of {others[0]}," if others else ""
        yield f"`{name}` is imported from {place or 'nowhere'}{of} and not from {_ROOT / name}"
    else:
        yield from (f"`{name}` is also a package of {other}, which nightmill's hides" for other in others)


def _imported_from(name: str) -> Path | None:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), spec.origin]
    return Path(places[0]).resolve() if places[0] else None


def _described(owner: str, name: str) -> str:
    found = distribution(owner)
    return f"{owner} {found.version} ({found.locate_file(name)})"
