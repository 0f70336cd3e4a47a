"""`python -m tests.configuration_page`: write docs/reference/configuration.md from settings and batch policy."""

from collections.abc import Callable

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from jobs.policy.batch_policy import fields, policy_keys
from jobs.policy.parse_set_options import former_names
from jobs.policy.policy_key_metadata import Identity
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

*Identity*: batches that differ in the key are different batches; a submit that differs in other keys only finds the
batch that is there. *Change*: `nightmill change` may change it later. *Recorded*: image rows note it in `versions`
where it isn't the default.

"""
_RENAMED = """
## Former names

Still read where the new name isn't set, with a warning.

"""


def page() -> str:
    """The whole page, as Markdown."""
    former = "".join(
        f"| `NIGHTMILL_{old.upper()}` | `NIGHTMILL_{new.upper()}` |\n" for old, new in RENAMED.items()
    ) + "".join(f"| `--set {old}` | `--set {new}` |\n" for old, new in former_names().items())
    return (
        f"{_HEAD}{_table('setting', Settings, _variable)}"
        f"{_POLICY}{_policy_table()}"
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


def _policy_table() -> str:
    rows = [f"| `{name}` | {_policy_cells(name, field)} |" for name, field in fields().items()]
    head = ["| key | default | meaning | identity | change | recorded |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _policy_cells(name: str, field: FieldInfo) -> str:
    key = policy_keys()[name]
    default = "" if key.is_chosen else _default(field)
    marks = (_mark(key.identity != Identity.NEVER), _mark(key.is_changeable), _mark(key.is_recorded))
    return " | ".join((default, field.description or "", *marks))


def _mark(is_so: bool) -> str:
    return "yes" if is_so else ""


def _default(field: FieldInfo) -> str:
    value = getattr(field.default, "value", field.default)
    if isinstance(value, ByteSize):
        value = value.human_readable(decimal=False)
    elif isinstance(value, bool):
        value = str(value).lower()
    return "" if value in (None, "", ()) else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
