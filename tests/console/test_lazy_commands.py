"""Commands are listed without being imported, and imported when they are typed."""

import subprocess
import sys

import pytest

from console.lazy_commands import MODULES, LazyCommands, load

HEAVY = ("sqlalchemy", "pydantic_settings", "celery", "numpy", "PIL", "torch")


@pytest.mark.parametrize("name", MODULES)
def test_a_command_is_listed_with_the_help_that_it_has(name: str) -> None:
    listed, real = LazyCommands().get_command(None, name), load(name)
    assert listed is not None
    assert listed.name == real.name or name in (
        "exports",
        "identity",
        "models",
        "pools",
        "tenants",
        "webhook",
        "workers",
    )
    assert listed.get_short_help_str() == real.get_short_help_str() != ""


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = f"""
import sys
from console.cli import main
sys.argv = ["nightmill", "--help"]
try:
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Where batches stand." in ended.stdout
    assert ended.stdout.strip().endswith("[]")


@pytest.mark.parametrize("module", ["batches.status_rejects_failures_targets", "run", "submit"])
def test_commands_that_draw_nothing_import_no_library_for_pictures(module: str) -> None:
    code = f"import console.commands.{module}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "['sqlalchemy', 'pydantic_settings']"
