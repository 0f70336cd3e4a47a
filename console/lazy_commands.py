"""A group of commands each of whose modules is imported only when its command is typed.

What each costs to import is up to a second; the list of commands shows docstrings without importing them.
"""

import ast
from functools import cache
from importlib import import_module, util
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

MODULES = {
    "run": "run",
    "plan": "plan",
    "recipe": "recipe",
    "submit": "submit",
    "status": "batches",
    "rejects": "batches",
    "failures": "batches",
    "targets": "batches",
    "pause": "batches",
    "resume": "batches",
    "cancel": "batches",
    "retry": "batches",
    "change": "tenants",
    "archive": "archive",
    "delete": "archive",
    "export": "export",
    "feed": "export",
    "evaluate": "evaluate",
    "sweep": "sweep",
    "check": "check",
    "adopt": "check",
    "worker": "processes",
    "scheduler": "processes",
    "up": "processes",
    "down": "processes",
    "migrate": "processes",
    "doctor": "doctor",
    "models": "models",
    "tenants": "tenants",
}
"""The module of `console.commands` that has a function, or a group of commands, of the command's name."""


class LazyCommands(TyperGroup):
    """All commands of `MODULES`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: TyperCommand(name) for name in MODULES}  # of these, near misses are told

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """The command as the list shows it."""
        del ctx
        return TyperCommand(cmd_name, help=_summary(cmd_name)) if cmd_name in MODULES else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that was typed, its arguments."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and load(str(name)), rest


def load(name: str) -> Any:
    """The command, or the group of commands, of that name, as typer has them; imports its module."""
    found = getattr(import_module(_module(name)), name)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(found)
        found = app
    return typer.main.get_command(found)


def _module(name: str) -> str:
    return f"console.commands.{MODULES[name]}"


def _summary(name: str) -> str | None:
    """The docstring of the command's function, or the `help=` of its group."""
    for node in _source(_module(name)).body:
        match node:
            case ast.FunctionDef(name=function) if function == name:
                return ast.get_docstring(node)
            case ast.Assign(targets=[ast.Name(id=group)], value=ast.Call(keywords=keywords)) if group == name:
                return next(str(ast.literal_eval(word.value)) for word in keywords if word.arg == "help")
    return None


@cache
def _source(module: str) -> ast.Module:
    """Its syntax tree; nothing of it runs."""
    spec = util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
