"""Options `--set KEY=VALUE` that are keys of the batch policy."""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jobs.errors import UsageError
from jobs.policy.batch_policy import BatchPolicy, fields, policy_keys

log = logging.getLogger(__name__)


def former_names() -> dict[str, str]:
    """Return the keys that were renamed, by their former names, which are still read."""
    return {key.former_name: name for name, key in policy_keys().items() if key.former_name}


def is_policy_key(name: str) -> bool:
    """Whether `--set` takes this name as a key of the policy; former names are such keys, too."""
    return name in fields() or name in former_names()


def parse_policy(given: Mapping[str, str]) -> BatchPolicy:
    """Parse a policy from key=value texts; UsageError names the key, its value and what is allowed.

    A key's former name is read where the new one isn't given, with a warning.
    """
    known = dict(given)
    for old, new in former_names().items():
        if old in known:
            log.warning(
                "--set %s is now called %s; the old name will not be read in a later version", old, new
            )
            known.setdefault(new, known.pop(old))
    try:
        return BatchPolicy.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise UsageError(said) from None
        raise UsageError(f"--set {first['loc'][0]}={first['input']}: {said}") from None


def parse_changes(given: Mapping[str, str | None]) -> dict[str, Any]:
    """Parse what `change` is to change of a batch's policy; None stands for the default. Raises like `parse_policy`."""
    changeable = [name for name, key in policy_keys().items() if key.is_changeable]
    for name in given:
        if name not in changeable:
            raise UsageError(
                f"--set {name}: only {_listed(changeable)} can be changed of a batch that is there"
            )
    wanted = parse_policy({name: text for name, text in given.items() if text is not None})
    return {name: getattr(wanted, name) for name in given}


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
