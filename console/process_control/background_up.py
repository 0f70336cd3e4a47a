"""Run `nightmill up` in the background, in its own session; its pid is stored in `up.json` in the data folder."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from console.process_control.supervisor import STOP_S, tail
from jobs.errors import ServiceError
from jobs.logs.log_files import open_log, rotate_in_place
from jobs.services.data_folder_errors import named_by_its_setting
from jobs.setting_values.watermark_key import MarkKey
from jobs.settings import Settings

START_S = 60
_PIXEL_SETTINGS = (
    "watermark",
    "watermark_method",
    "c2pa",
    "weights",
    "low_memory",
    "batch_size",
    "device",
    "prompt_terms",
)
"""Settings of workers that change the pixels of images, or which images are blocked."""


@dataclass(frozen=True, slots=True)
class UpReport:
    """What a running `up` tells other commands.

    `workers` is the number that it keeps, None for an `up` of a version that takes no requests; `answered` is the last
    request that is done, `refusal` why it wasn't.
    """

    workers: int | None = None
    worker_pids: tuple[int, ...] = ()
    slowed: tuple[str, ...] = ()
    answered: str | None = None
    refusal: str | None = None


def start(settings: Settings, arguments: Sequence[str]) -> None:
    """Start `nightmill ARGUMENTS` and wait until it is up. Raises ServiceError with the end of its log if it fails."""
    log = log_of(settings)
    rotate_in_place(log)
    with named_by_its_setting(settings.data_dir):
        opened = open_log(log)
    with opened as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "console.cli", *arguments],
            env=settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    until = time.monotonic() + START_S
    while running(settings) != process.pid:
        if process.poll() is not None or time.monotonic() > until:
            raise ServiceError(f"could not start; the end of {log}:\n{tail(log)}")
        time.sleep(0.1)


def log_of(settings: Settings) -> Path:
    """Return the path of the log of `up` itself."""
    return settings.logs_path / "up.log"


def stop(settings: Settings) -> bool:
    """Stop the process that `up` started and wait for it; return False if there is none."""
    pid = running(settings)
    if pid is None:
        return False
    process = psutil.Process(pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S + 10)
    except psutil.TimeoutExpired:
        raise ServiceError(f"process {pid} does not stop; see {settings.logs_path}") from None
    return True


def running(settings: Settings) -> int | None:
    """Return the id of the process that `up` started, if it is running."""
    try:
        known = json.loads(_file(settings).read_text())
        process = psutil.Process(known["pid"])
        return process.pid if abs(process.create_time() - known["since"]) < 1 else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def report(settings: Settings) -> UpReport | None:
    """Return what `up` reported last; None if it isn't running."""
    if running(settings) is None:
        return None
    try:
        told = json.loads(_file(settings).read_text())
        known = {field.name: told[field.name] for field in fields(UpReport) if field.name in told}
        lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return UpReport(**known | lists)
    except (OSError, ValueError, TypeError):
        return UpReport()


def slowed(settings: Settings) -> list[str]:
    """Return what `up` reported about child processes that keep crashing; empty if it isn't running."""
    told = report(settings)
    return [str(line) for line in told.slowed] if told else []


def other_settings(settings: Settings) -> dict[str, tuple[str, str]]:
    """Return the settings that change images and that `up` was started with other values of: (theirs, these)."""
    try:
        theirs = json.loads(_file(settings).read_text()).get("pixel_settings", {})
    except (OSError, ValueError, AttributeError):
        return {}
    own = _pixel_settings(settings)
    return {name: (theirs[name], own[name]) for name in own if theirs.get(name, own[name]) != own[name]}


def settings_without_effect(settings: Settings) -> list[str]:
    """Say which settings the processes of `up` keep other values of, which they were started with."""
    return [
        f"NIGHTMILL_{name.upper()} is {theirs} for the workers that are up; {own}, as here, has no effect"
        for name, (theirs, own) in other_settings(settings).items()
    ]


def _pixel_settings(settings: Settings) -> dict[str, str]:
    given = settings.watermark_key
    key = "" if given is None else MarkKey.parse(given.get_secret_value()).fingerprint
    return {name: str(getattr(settings, name)) for name in _PIXEL_SETTINGS} | {"watermark_key": key}


def announce(settings: Settings, report: UpReport = UpReport()) -> None:
    """Record this process as the one that is up, and what it reports."""
    own = psutil.Process()
    known = asdict(report) | {
        "pid": own.pid,
        "since": own.create_time(),
        "pixel_settings": _pixel_settings(settings),
    }
    new = _file(settings).with_name("up.json.new")
    new.write_text(json.dumps(known))
    new.replace(_file(settings))


@contextmanager
def sole(settings: Settings) -> Iterator[None]:
    """Be the only one that is up with this data folder, until the process ends; raises ServiceError if it isn't."""
    with named_by_its_setting(settings.data_dir):
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        opened = _file(settings).with_name("up.lock").open("w")
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(f"another `nightmill up` runs with {settings.data_dir}") from None
        yield


def withdraw(settings: Settings) -> None:
    """Remove the record that this process is up."""
    if running(settings) == os.getpid():
        _file(settings).unlink(missing_ok=True)


def _file(settings: Settings) -> Path:
    return settings.data_dir / "up.json"
