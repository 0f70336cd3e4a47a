"""On PYTHONPATH, it makes every Python that is started behave as where `pip install nightmill` brought no extra.

Python imports a module of this name when it starts.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from models.optional_packages import EXTRAS

ABSENT = {"tokenizers", *(name for names in EXTRAS.values() for name in names)}


class _WithoutExtras(PathFinder):
    """Finds what is installed, except the packages of the extras."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing for an absent package."""
        is_absent = fullname.partition(".")[0] in ABSENT
        return None if is_absent else PathFinder.find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = _WithoutExtras
