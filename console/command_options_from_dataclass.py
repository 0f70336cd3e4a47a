"""Gives a command the fields of a dataclass as its arguments and options, so that several commands share them."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

Command = Callable[..., None]
T = TypeVar("T")


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
