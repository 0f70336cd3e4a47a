"""`nightmill up` and `nightmill down`: services, a scheduler and workers in the background."""

import time
from functools import partial
from typing import Annotated

import typer

from console.process_control import background_up, up_requests
from console.process_control.resize_and_restart_up import UpControl, is_ready
from console.process_control.supervisor import group
from console.session import session
from console.signing_identity.describe_identity import require_usable_identity
from console.terminal.output import note, plural
from jobs.errors import NightmillError, ServiceError, UsageError
from jobs.logs.log_files import rotate_in_place
from jobs.process_lifecycle import outlive_hangup, stop_on_signals
from jobs.services.embedded import stop_services
from jobs.settings import Settings, load_settings
from models.optional_packages import require
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority

POLL_S = 0.5


def up(
    workers: Annotated[
        int | None, typer.Option(min=0, help="worker processes, also of an `up` that runs; 1 at its start")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="restart scheduler and workers, one after the other")
    ] = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="stay until Ctrl-C")] = False,
    wait: Annotated[
        float | None, typer.Option(min=0, help="seconds that PostgreSQL may take to come; default 300")
    ] = None,
) -> None:
    """Start everything in the background: private services, a scheduler, workers. `down` stops them."""
    settings = load_settings(database_wait_s=wait)
    if workers != 0 and (workers or background_up.running(settings) is None):
        require("worker", instead="`up --workers 0` starts the scheduler alone")
        require_usable_identity(settings)
    TimeStampAuthority.of_settings(settings)  # raises if the scheduler would end at once
    if foreground:
        if running := background_up.running(settings):
            raise UsageError(
                f"already up, as process {running}: `nightmill down` stops it, and without --foreground it is changed"
            )
        _serve(settings, 1 if workers is None else workers)
    elif running := background_up.running(settings):
        if workers is None and not restart:
            note(f"already up, as process {running}")
        else:
            _change(settings, workers, restart=restart)
    else:
        _start(settings, 1 if workers is None else workers)


def down() -> None:
    """Stop what `up` started."""
    settings = load_settings()
    was_up = background_up.stop(settings)
    users = stop_services(settings)
    if users:
        raise NightmillError(f"the private services are still used by processes {', '.join(map(str, users))}")
    note("stopped" if was_up else "nothing was up")


def _start(settings: Settings, workers: int) -> None:
    if settings.database_url is not None:
        with session(settings, waits=True):
            pass  # the user sees here what it waits for
    background_up.start(settings, ["up", "--foreground", "--workers", str(workers)])
    note(
        f"up: a scheduler and {plural(workers, 'worker')}; logs in {settings.logs_path}; "
        "`nightmill down` stops them"
    )


def _change(settings: Settings, workers: int | None, *, restart: bool) -> None:
    """Ask the `up` that runs for another number of workers or a restart, and wait until that is done."""
    told = background_up.report(settings)
    if told is None or told.workers is None:
        raise ServiceError("what is up is of an earlier version: `nightmill down`, then `nightmill up`")
    with session(settings):
        pass  # brings private tables to this version's form before processes of it start
    request = up_requests.ask(settings, workers=workers, restart=restart)
    if restart:
        note("restarting the scheduler and the workers, one after the other")
        for said in background_up.settings_without_effect(settings):
            note(f"{said}: `nightmill down` and `nightmill up` take it over")
    if workers is not None and workers < told.workers:
        note(f"{plural(told.workers - workers, 'worker')} to stop: what is rendered is delivered first")
    while told is not None and told.answered != request.id:
        time.sleep(POLL_S)
        told = background_up.report(settings)
    if told is None:
        raise ServiceError(f"what was up has ended meanwhile; see {background_up.log_of(settings)}")
    if told.refusal is not None:
        raise ServiceError(told.refusal)
    note(f"up: a scheduler and {plural(told.workers or 0, 'worker')}")


def _serve(settings: Settings, workers: int) -> None:
    stopping = stop_on_signals()
    outlive_hangup()
    with (
        session(settings, waits=True) as open_session,
        background_up.sole(settings),
        group(open_session.settings, workers) as members,
    ):
        control = UpControl(settings, members, partial(is_ready, open_session.engine))
        background_up.announce(settings, report := control.report())
        note(
            f"up: a scheduler and {plural(workers, 'worker')}; logs in {settings.logs_path}; Ctrl-C stops them"
        )
        while not stopping.is_set():
            members.keep_alive()
            rotate_in_place(background_up.log_of(settings))
            control.look()
            if report != (report := control.report()):
                background_up.announce(settings, report)
            time.sleep(POLL_S)
    background_up.withdraw(settings)
