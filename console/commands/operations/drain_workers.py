"""`nightmill workers drain` and `undrain`: take hosts or workers out of work, and let them work again."""

import getpass
import os
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from console.command_options import Json, seconds
from console.session import Session, session
from console.terminal.output import note, plural, print_json
from jobs.errors import UsageError
from jobs.queue import worker_drains
from jobs.queue.worker_drains import Drain, Holding, Target, drains, holding
from jobs.queue.worker_registry import workers as all_workers
from jobs.states import DrainKind
from jobs.suggest_names_and_shorten_lists import nearest, some_of

TIMED_OUT = 124
"""The exit code when not all is finished after --timeout: that of timeout(1)."""

POLL_S = 0.5

Targets = Annotated[
    list[str], typer.Argument(metavar="HOST|WORKER", help="names, as `nightmill workers` shows them")
]


def drain(
    targets: Targets,
    host: Annotated[
        bool, typer.Option("--host", help="the names are of hosts, also of ones that have no worker yet")
    ] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="shown by `nightmill workers`")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="return when they hold no jobs any more")] = False,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help='with --wait: end with exit code 124 after "10m"')
    ] = None,
    as_json: Json = False,
) -> None:
    """Let workers finish their device batch, give back the rest, and take no jobs until `undrain`."""
    limit_s = seconds("--timeout", timeout)
    if limit_s is not None and not wait:
        raise UsageError("--timeout is for --wait: nothing is waited for without it")
    with session() as open_session:
        engine = open_session.engine
        known = [worker.name for worker in all_workers(engine)]
        found = [(DrainKind.HOST, name) if host else _target(name, known) for name in targets]
        before = {one.key: one for one in drains(engine)}
        worker_drains.drain(engine, found, drained_by=_user(), reason=reason)
        for target in dict.fromkeys(found):
            note(_told(target, before.get(target)))
        _note_old_versions(engine, found)
        is_over = not wait or _wait(open_session, found, limit_s)
        if as_json:
            print_json(_report(engine, found))
    if not is_over:
        raise typer.Exit(TIMED_OUT)


def undrain(targets: Targets, as_json: Json = False) -> None:
    """Let drained hosts or workers work again."""
    with session() as open_session:
        there = drains(open_session.engine)
        found = [_drained(name, there) for name in targets]
        worker_drains.undrain(open_session.engine, found)
        if as_json:
            print_json({"ended": [one.report() for one in there if one.key in found]})
        for kind, name in dict.fromkeys(found):
            note(f"{kind} {name} is drained no more")
        for one in drains(open_session.engine):
            if one.kind is DrainKind.WORKER and (DrainKind.HOST, one.target.rpartition(":")[0]) in found:
                note(f"worker {one.target} stays drained by itself: `nightmill workers undrain {one.target}`")


def _report(engine: Engine, targets: Sequence[Target]) -> dict[str, Any]:
    """Return what is drained, and which of its workers still hold how many jobs."""
    return {
        "drains": [one.report() for one in drains(engine) if one.key in targets],
        "holding": [asdict(one) for one in holding(engine, targets)],
    }


def _target(name: str, known: Sequence[str]) -> Target:
    """Return the worker or the host of a worker that is called so. Raises UsageError if there is none."""
    hosts = {worker.rpartition(":")[0] for worker in known}
    if name in known:
        return DrainKind.WORKER, name
    if name in hosts:
        return DrainKind.HOST, name
    raise UsageError(
        f"no worker, and no host with a worker, is called {name!r}: {_hint(name, hosts.union(known))}"
        f"`nightmill workers` lists them, and `drain --host {name}` drains a host before it has one"
    )


def _drained(name: str, there: Sequence[Drain]) -> Target:
    """Return the drain of the host or worker. Raises UsageError if it isn't drained."""
    for one in there:
        if one.target == name:
            return one.key
    around = next((one for one in there if one.covers(name)), None)
    if around is not None:
        raise UsageError(
            f"worker {name} isn't drained by itself, but its host is: `nightmill workers undrain {around.target}`"
        )
    raise UsageError(
        f"{name!r} isn't drained: {_hint(name, (one.target for one in there))}`nightmill workers` tells what is"
    )


def _hint(name: str, names: Iterable[str]) -> str:
    near = nearest(name, names)
    return f"did you mean {near!r}? " if near else ""


def _told(target: Target, before: Drain | None) -> str:
    kind, name = target
    if before is not None:
        return f"{kind} {name} was drained before, by {before.drained_by}"
    if kind is DrainKind.HOST:
        return f"host {name} is drained, with workers that start there; `nightmill workers undrain {name}` ends that"
    return (
        f"worker {name} is drained, and so is one that takes its place on that device, under another name; "
        f"`nightmill workers undrain {name}` ends that"
    )


def _note_old_versions(engine: Engine, targets: Sequence[Target]) -> None:
    for worker in all_workers(engine):
        is_target = {(DrainKind.WORKER, worker.name), (DrainKind.HOST, worker.host)} & set(targets)
        if is_target and worker.version is None and not worker.is_lost:
            note(f"worker {worker.name} is of a version that doesn't look for drains: stop it instead")


def _wait(open_session: Session, targets: Sequence[Target], limit_s: float | None) -> bool:
    """Wait until the workers hold nothing, and say whenever that has changed; returns whether it was so in time."""
    began, said = time.monotonic(), ""
    while left := open_session.patiently(lambda: holding(open_session.engine, targets)):
        if said != (said := _progress(left)):
            note(said)
        if limit_s is not None and time.monotonic() - began >= limit_s:
            note("not finished in time; they stay drained, and finish what they are at")
            return False
        time.sleep(POLL_S)
    note("they hold no jobs")
    return True


def _progress(left: Sequence[Holding]) -> str:
    names = some_of([f"{one.worker} {plural(one.jobs, 'job')}" for one in left], 5)
    return f"{plural(len(left), 'worker')} still at work: {names}"


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # in a container, of a user without a name
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
