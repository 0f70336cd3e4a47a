"""Commands on processes and tables: worker, scheduler, migrate."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from sqlalchemy import Engine

import migrations
from console.command_options import Json, seconds
from console.session import MADE_BY_LATER, session
from console.terminal.confirm import ask
from console.terminal.output import note, print_json
from jobs.db.cluster_epochs import begin_epoch
from jobs.db.engine import check_reachable, connect
from jobs.errors import UsageError
from jobs.logs.start_logging import log, start_logging
from jobs.process_lifecycle import hold_stop_signals
from jobs.services.embedded import services
from jobs.settings import Settings, load_settings
from models.optional_packages import require

Device = Annotated[str | None, typer.Option(help="auto, cpu, mps, cuda or cuda:N")]


Wait = Annotated[
    float | None, typer.Option(min=0, help="seconds that PostgreSQL may take to come; default 300")
]


def worker(
    device: Device = None,
    pool: Annotated[
        str | None, typer.Option(metavar="NAME", help="pool to work in; `nightmill pools` lists them")
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="MODEL,…", help="models of the pool, if it is a new one")
    ] = None,
    until_idle: Annotated[
        str | None, typer.Option(metavar="TIME", help='end after this long without work: "60", "5m"')
    ] = None,
    max_time: Annotated[
        str | None, typer.Option(metavar="TIME", help='have stopped before this has passed: "7h50m"')
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="end after one time slice of work")] = False,
    wait: Wait = None,
) -> None:
    """Run a worker in the foreground: one child process per device, until told to stop."""
    require("worker")
    settings = load_settings(
        device=device,
        pool=pool,
        pool_models=models,
        until_idle_s=seconds("--until-idle", until_idle),
        max_time_s=seconds("--max-time", max_time),
        once=once or None,
        database_wait_s=wait,
    )
    _become("worker", settings)


def scheduler(wait: Wait = None) -> None:
    """Run a scheduler in the foreground: wake-ups for workers, rescue of lost jobs, until told to stop."""
    _become("scheduler", load_settings(database_wait_s=wait))


def migrate(
    to: Annotated[str, typer.Option(help="revision, `head` or `base`")] = "head",
    down_: Annotated[
        bool, typer.Option("--down", help="go back to the revision; drops what came after it")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="don't ask before --down drops something")] = False,
    as_json: Json = False,
) -> None:
    """Bring the tables to this version's form."""
    if down_ and to == "head":
        raise UsageError(
            "migrate --down: say where to with --to; `--to base` drops all tables and what is in them"
        )
    if down_ and not yes:
        gone = "all tables and what is in them" if to == "base" else f"all that came after revision {to}"
        ask(f"drops {gone}")
    with services(load_settings()) as configured:
        engine = connect(configured.database)
        check_reachable(engine)
        try:
            _check_direction(engine, to, is_down=down_)
            if not down_ and migrations.is_newer_but_usable(engine):
                note(
                    "the database has the tables of a later version of nightmill, with which this one still works"
                )
                return
            before, after = (migrations.downgrade if down_ else migrations.upgrade)(engine, to)
            if migrations.is_current(engine):
                begin_epoch(engine)
        except migrations.UnknownRevisionError as error:
            raise UsageError(f"migrate --to {to}: {error}") from None
        finally:
            engine.dispose()
    if as_json:
        print_json({"before": before, "after": after})
    else:
        note(f"migrated from {before or 'an empty database'} to {after or 'an empty database'}")


def _check_direction(engine: Engine, to: str, *, is_down: bool) -> None:
    """Raise UsageError if the tables would have to go back without --down, or are unknown to this version."""
    now = migrations.current(engine) or ""
    if not is_down and to != "head" and (to == "base" or to < now):
        raise UsageError(f"migrate --to {to}: the database is at {now}; to go back say --down, too")
    if migrations.is_newer(engine) and not (to == "head" and migrations.is_newer_but_usable(engine)):
        raise UsageError(f"the database is at {now}, of a later version of nightmill: {MADE_BY_LATER}")


def _become(module: str, settings: Settings) -> None:
    tell: Callable[[str], object] = note
    if settings.log_format == "json":  # the process logs to the same stream
        start_logging(settings.log_level, settings.log_format)
        tell = log.warning
    with session(settings, waits=True, tell=tell):
        pass  # creates or checks the tables before the process starts
    hold_stop_signals()
    os.execve(sys.executable, [sys.executable, "-m", module], settings.environment())
