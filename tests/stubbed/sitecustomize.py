"""On PYTHONPATH, it makes every worker that is started draw with the models of `tests.chaos.stub`, without torch.

Python imports a module of this name when it starts; the worker itself, its settings and its stages are the real ones.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


class _BeforeTasks(MetaPathFinder):
    """Puts the stubs in place before the worker's tasks are imported: in its parent and in each child."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """Find nothing; others find the module."""
        if fullname == "worker.tasks":
            sys.meta_path.remove(self)
            from tests.chaos.stub import install

            install()
        return None


sys.meta_path.insert(0, _BeforeTasks())
