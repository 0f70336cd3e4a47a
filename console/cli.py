"""The command line `nightmill`: entry point, error messages and exit codes."""

import atexit
import gc
import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from console.lazy_commands import LazyCommands
from console.process_control.stop_by_signal import Stopped, stop_on_signals, stopping
from console.terminal.lenient_standard_streams import prepare_streams
from console.terminal.output import err, print_line
from jobs.errors import NightmillError, UsageError
from jobs.logs.start_logging import log, logs_json
from jobs.mask_passwords_and_escape_text import visible, without_secrets
from jobs.process_lifecycle import work_offline
from jobs.unexpected_errors import note_unexpected
from models.errors import MissingPackagesError, ModelError, UnknownModelError
from models.optional_packages import missing_extra

app = typer.Typer(
    cls=LazyCommands,
    name="nightmill",
    help="Prompt manifests in, finished image datasets out, overnight.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="say which nightmill this is")] = False,
) -> None:
    if version:
        print_line(f"nightmill {metadata.version('nightmill')}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors are one line on stderr, with exit code 1 (failure) or 2 (usage error)."""
    atexit.register(
        gc.freeze
    )  # Python would free every imported module one by one, a third of a command's time
    prepare_streams()
    stop_on_signals()
    if sys.argv[1:3] != ["models", "pull"]:
        work_offline()
    try:
        with stopping():
            _refuse_empty(sys.argv[1:])
            code = _run()
        sys.stdout.flush()
    except NightmillError as error:
        _fail(str(error), error.exit_code)
    except (UnknownModelError, MissingPackagesError) as error:
        _fail(str(error), 2)
    except ModelError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if missing := missing_extra(error):
            _fail(str(missing), 2)
        _fail(note_unexpected(error), 1)
    except OSError as error:
        _discard_unwritable_output()
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error), 1)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except Exception as error:
        if message := _encoding_message(error):
            _fail(message, UsageError.exit_code)
        _fail(_lost_database(error) or _refused_by_database(error) or note_unexpected(error), 1)
    sys.exit(code)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse empty arguments: usually an unset shell variable, which would otherwise be taken for no argument."""
    for place, argument in enumerate(arguments, 1):
        before = arguments[place - 2] if place > 1 else ""
        option = before if argument == "" else argument[:-1]
        if argument == "" or re.fullmatch("--[a-z0-9-]+=", argument):
            what = option if option.startswith("-") else f"argument {place}"
            raise UsageError(
                f"{what} is empty: is a variable of the shell not set? Give a value or leave it out"
            )


def _run() -> int:
    """Run the command and return its exit code."""
    try:
        return int(app(standalone_mode=False) or 0)
    except TyperException as error:
        from typer.rich_utils import rich_format_error  # noqa: PLC0415 - slow to import: it renders Markdown

        message = visible(error.format_message())
        error.format_message = lambda: message  # type: ignore[method-assign]
        rich_format_error(error)  # type: ignore[arg-type]
        return error.exit_code
    except Abort:
        return 1


def _encoding_message(error: Exception) -> str:
    """Return a message if an argument that must be text, for PostgreSQL for instance, isn't UTF-8; else ""."""
    if not isinstance(error, UnicodeEncodeError) or error.object not in sys.argv:
        return ""
    return (
        f"{error.object[:60]!r} isn't UTF-8, which only the names of files to read may be; write it in UTF-8"
    )


def _lost_database(error: Exception) -> str:
    """Return a message if the connection to PostgreSQL was lost; else ""."""
    from sqlalchemy.exc import DBAPIError, OperationalError  # noqa: PLC0415 - slow to import; rarely needed

    if isinstance(error, DBAPIError) and (
        error.connection_invalidated or isinstance(error, OperationalError)
    ):
        return f"lost PostgreSQL: {str(error.orig).strip().splitlines()[0]}"
    return ""


def _refused_by_database(error: Exception) -> str:
    """Return a message if PostgreSQL refuses what its role may not do, or a value that it can't hold; else ""."""
    from psycopg.errors import DataError, InsufficientPrivilege  # noqa: PLC0415
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    if not isinstance(error, DBAPIError):
        return ""
    reason = str(error.orig).strip().splitlines()[0]
    if isinstance(error.orig, InsufficientPrivilege):
        return f"the database's user may not do this: {reason}; `nightmill grants` tells what roles there are"
    return f"PostgreSQL can't hold a value: {reason}" if isinstance(error.orig, DataError) else ""


def _discard_unwritable_output() -> None:
    """Discard unwritable output, so that it doesn't fail again at interpreter exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    if logs_json():
        log.critical("%s", message)
        sys.exit(code)
    err.print("[bold red]error:[/bold red]", end=" ")
    err.print(visible(without_secrets(message)), markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
