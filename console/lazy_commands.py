"""A typer group whose command modules are imported only when their command is run.

Importing a command takes up to a second; the list of commands shows docstrings without importing them.
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
    "status": "batches.status_rejects_failures_targets",
    "rejects": "batches.status_rejects_failures_targets",
    "failures": "batches.status_rejects_failures_targets",
    "targets": "batches.status_rejects_failures_targets",
    "pause": "batches.pause_and_resume",
    "resume": "batches.pause_and_resume",
    "cancel": "batches.cancel_and_retry",
    "report": "report",
    "retry": "batches.cancel_and_retry",
    "change": "batches.change",
    "wait": "wait",
    "archive": "batches.archive",
    "delete": "batches.delete",
    "export": "export",
    "exports": "exports",
    "feed": "feed.feed",
    "consumers": "feed.consumers",
    "reconcile": "batches.reconcile",
    "evaluate": "evaluate",
    "sweep": "batches.sweep_orphaned_objects",
    "check": "batches.check",
    "retract": "batches.retract",
    "judge": "images.judge",
    "verify": "images.verify",
    "show": "images.show",
    "reproduce": "images.reproduce",
    "adopt": "batches.adopt",
    "move": "batches.move",
    "rename": "batches.rename",
    "tag": "batches.tag",
    "duplicates": "batches.duplicates",
    "worker": "processes",
    "scheduler": "processes",
    "up": "operations.up_and_down",
    "down": "operations.up_and_down",
    "migrate": "processes",
    "doctor": "doctor",
    "models": "models.list_and_show",
    "tenants": "operations.tenants",
    "pools": "operations.pools",
    "workers": "operations.workers",
    "grants": "operations.grants",
    "webhook": "operations.webhook",
    "identity": "operations.identity",
}
"""The module in `console.commands` that defines the function, or the group of commands, with the command's name."""


class LazyCommands(TyperGroup):
    """The group of all commands in `MODULES`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: TyperCommand(name) for name in MODULES}  # names to suggest

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """Return the command as the list shows it, without importing its module."""
        del ctx
        return TyperCommand(cmd_name, help=_summary(cmd_name)) if cmd_name in MODULES else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that was given, loaded, and its arguments."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and load(str(name)), rest


def load(name: str) -> Any:
    """Import the module of the command, or group of commands, and return it as typer's object."""
    found = getattr(import_module(_module(name)), name)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(found)
        found = app
    return typer.main.get_command(found)


def _module(name: str) -> str:
    return f"console.commands.{MODULES[name]}"


def _summary(name: str) -> str | None:
    """Return the docstring of the command's function, or the `help=` of its group."""
    for node in _source(_module(name)).body:
        match node:
            case ast.FunctionDef(name=function) if function == name:
                return ast.get_docstring(node)
            case ast.Assign(targets=[ast.Name(id=group)], value=ast.Call(keywords=keywords)) if group == name:
                return next(str(ast.literal_eval(word.value)) for word in keywords if word.arg == "help")
    return None


@cache
def _source(module: str) -> ast.Module:
    """Return the module's syntax tree, without importing it."""
    spec = util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
