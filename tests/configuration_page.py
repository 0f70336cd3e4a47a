"""`python -m tests.configuration_page`: write docs/reference/configuration.md from settings and batch policy."""

from collections.abc import Callable

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from jobs.batches import policy
from jobs.batches.policy import Policy
from jobs.settings import RENAMED, Settings
from tests.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "configuration.md"

_HEAD = """# Configuration

Written by `python -m tests.configuration_page`; a test compares.

## Settings

Environment variables, read once when a process starts. An invalid value ends the command with exit code 2 and the
variable's name. Durations are seconds.

"""
_POLICY = """
## Batch policy

Options of a whole batch, given to `run`, `submit` and `plan` as `--set KEY=VALUE`. Every other key of `--set` is a
manifest column and sets it on all rows ([manifest](../manifest.md)).

"""
_RENAMED = """
## Former names

Still read where the new name isn't set, with a warning.

"""


def page() -> str:
    """The whole page, as Markdown."""
    former = "".join(
        f"| `NIGHTMILL_{old.upper()}` | `NIGHTMILL_{new.upper()}` |\n" for old, new in RENAMED.items()
    ) + "".join(f"| `--set {old}` | `--set {new}` |\n" for old, new in policy.RENAMED.items())
    return (
        f"{_HEAD}{_table('setting', Settings, _variable)}"
        f"{_POLICY}{_table('key', Policy, str)}"
        f"{_RENAMED}| former | now |\n|---|---|\n{former}"
    )


def _variable(name: str) -> str:
    return f"NIGHTMILL_{name.upper()}"


def _table(what: str, model: type[BaseModel], spelt: Callable[[str], str]) -> str:
    rows = [
        f"| `{spelt(name)}` | {_default(field)} | {field.description or ''} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join([f"| {what} | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _default(field: FieldInfo) -> str:
    value = getattr(field.default, "value", field.default)
    if isinstance(value, ByteSize):
        value = value.human_readable(decimal=False)
    elif isinstance(value, bool):
        value = str(value).lower()
    return "" if value in (None, "", ()) else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
