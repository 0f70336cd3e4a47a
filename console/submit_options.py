"""The options that `plan`, `submit` and `run` share, and how a command takes them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_type_hints

from console import command_options as options

Command = Callable[..., None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ManifestOptions:
    """The options of a manifest and of the batch made of it, as typed."""

    manifest: options.Manifest
    out: options.Out = None
    model: options.Model = None
    name: options.Name = None
    set_: options.Set = None
    map_: options.Map = None
    strict: options.Strict = False
    input_format: options.Format = None
    delimiter: options.Delimiter = None
    drop: options.Drop = None
    unique_ids: options.UniqueIds = False
    onto: options.Onto = None
    keep_dropped: options.KeepDropped = False

    @property
    def policy_keys(self) -> dict[str, object]:
        """The policy keys that are options of their own, where they are given."""
        return {}


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(ManifestOptions):
    """These, and how the batch is worked at."""

    priority: options.Priority = None
    window: options.Window = None
    not_before: options.NotBefore = None
    deadline: options.Deadline = None
    canary: options.Canary = None
    reuse: options.Reuse = None
    yes: options.Yes = False
    format: options.ExportFormats = None

    @property
    def policy_keys(self) -> dict[str, object]:
        """The policy keys that are options of their own, where they are given."""
        keys = "priority", "window", "not_before", "deadline", "canary", "reuse"
        return {key: value for key in keys if (value := getattr(self, key)) is not None}


def takes(kind: type[T]) -> Callable[[Callable[..., None]], Command]:
    """Give a command the fields of a dataclass as options; it gets an instance of it as its first argument."""

    def decorate(command: Callable[..., None]) -> Command:
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]

        def taking(**given: Any) -> None:
            command(kind(**{name: given.pop(name) for name in names}), **given)

        _, *own = inspect.signature(command).parameters.values()
        hints = get_type_hints(kind, include_extras=True)
        shared = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(kind).parameters.items()
        ]
        parameters = [*shared, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own)]
        taking.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        taking.__annotations__ = {each.name: each.annotation for each in parameters}
        taking.__name__, taking.__doc__ = command.__name__, command.__doc__
        return taking

    return decorate
