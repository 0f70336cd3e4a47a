"""A night of three tenants on a database whose clock is a simulation's, and the commands that people type in it.

The queue, the scheduler's tasks and the commands are the real ones; workers are simulated, as they are in
`bench.autoscaling`: they pick, claim, complete, fail and block through the queue's own functions.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine, text

from bench.autoscaling.simulated_clock import Clock
from bench.autoscaling.simulated_workers import Timeline, Worker
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.db.engine import run
from jobs.job_dataclasses import Failure, Job
from jobs.queue import canary_rollout, transitions
from jobs.settings import Settings
from jobs.states import ErrorKind
from jobs.webhooks.batch_end_hooks import addresses_of
from scheduler.advance_time_windows import move_windows
from scheduler.loop import rescue_all
from scheduler.webhooks.compose_mail_about_a_batch import mail_message
from scheduler.webhooks.detect_events import Detector
from scheduler.webhooks.send_messages import Sender
from tests.console.conftest import Typed, write_lines

BEGIN = datetime(2026, 11, 27, 18, 0, tzinfo=UTC)
TICK_S = 120.0
HOUR_PRICE = "H200=3.5"
WATTS = 480.0
MAIL = "mailto:operator@example.com"
SEARCH_PATH = "options=-csearch_path%3Dsimulation%2Cpg_catalog%2Cpublic"

# Defaults were bound to PostgreSQL's own now() when the tables were made.
_DEFAULTS = """
    DO $$ DECLARE found record; BEGIN
        FOR found IN SELECT table_name, column_name FROM information_schema.columns
                     WHERE table_schema = 'public' AND column_default IN ('now()', 'pg_catalog.now()') LOOP
            EXECUTE format(
                'ALTER TABLE public.%%I ALTER %%I SET DEFAULT simulation.now()', found.table_name, found.column_name);
        END LOOP;
    END $$
"""
_SEEN = text("UPDATE workers SET seen_at = now() WHERE name = ANY (CAST(:names AS text[])) RETURNING name")
_MAILS = text(
    "SELECT id, event, body FROM webhook_deliveries WHERE id > :after AND state = 'delivered' ORDER BY id"
)
_LANES = text("SELECT lanes.id FROM lanes JOIN batches ON batches.id = batch_id WHERE batches.name = :name")


def at(clock: str) -> datetime:
    """The moment of the night when clocks show this, in UTC."""
    hour, minute = map(int, clock.split(":"))
    day = BEGIN + timedelta(days=hour < BEGIN.hour)
    return day.replace(hour=hour, minute=minute)


@dataclass
class NightWorker(Worker):
    """A worker in whose hands some jobs end without an image."""

    ends: dict[int, ErrorKind] = field(default_factory=dict)
    """Lanes whose jobs are blocked or fail, and the kind of error."""

    def _joules(self, device_s: float) -> float | None:
        return WATTS * device_s

    def _end_jobs(self, jobs: list[Job]) -> int:
        assert self._slice is not None
        kind = self.ends.get(self._slice.lane)
        bad = [job for job in jobs if kind and (kind == ErrorKind.SAFETY or job.ordinal % 40 == 7)]
        for job in bad:
            told = (
                "nudity 0.31"
                if kind == ErrorKind.SAFETY
                else f"init_image room-{job.ordinal}.png isn't there"
            )
            end = transitions.block if kind == ErrorKind.SAFETY else transitions.fail
            options = {} if kind == ErrorKind.SAFETY else {"delay_s": 0}
            end(self.engine, [Failure(job.id, job.lease, kind or ErrorKind.SAFETY, told)], **options)
        return super()._end_jobs([job for job in jobs if job not in bad])


class SimulatedNight:
    """The night: events at times, and the transcript of what was typed."""

    def __init__(self, engine: Engine, settings: Settings, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.transcript: list[str] = []
        self.workers: dict[str, NightWorker] = {}
        self._clock = Clock(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql(_DEFAULTS)
        self.timeline = Timeline(BEGIN, self._clock)
        own = SecretStr(settings.database + ("&" if "?" in settings.database else "?") + SEARCH_PATH)
        changes = {"database_url": own, "hour_price": HOUR_PRICE, "on_end": MAIL, "sendmail": "/bin/cat"}
        self.settings = settings.model_copy(update=changes)
        self.typed = Typed(self.settings, folder)
        self._detector, self._sender = Detector(engine, self.settings), Sender(engine, self.settings.sendmail)
        self._told = 0
        self._image_s: dict[int, float] = {}
        self._ends: dict[int, ErrorKind] = {}

    def submit(
        self, name: str, rows: int, options: str, image_s: float, ends: ErrorKind | None = None
    ) -> None:
        """Type a submit of so many rows, of which workers take so long for each image."""
        write_lines(self.folder / f"{name}.jsonl", [{"prompt": f"{name} {n}"} for n in range(rows)])
        self.type(f"submit {name}.jsonl {options}")
        for row in run(self.engine, _LANES, {"name": name}):
            self._image_s[row.id] = image_s
            if ends:
                self._ends[row.id] = ends

    def type(self, command: str) -> None:
        """Type a command and note what it says."""
        self._see_workers()
        ended = self.typed(*_split(command))
        shown = f"{self.timeline.now:%H:%M} $ nightmill {command}"
        said = [line.rstrip() for line in (ended.out + ended.err).splitlines()]
        self.transcript += [shown, *[_plain(line) for line in said if line]]
        if ended.code:
            self.transcript.append(f"(exit code {ended.code})")

    def start_worker(self, name: str) -> None:
        """Start a worker, which is ready after a minute."""
        worker = NightWorker(
            self.engine,
            self.timeline,
            name,
            self._image_s,
            device="NVIDIA H200",
            idle_look_s=TICK_S,
            ends=self._ends,
        )
        self.workers[name] = worker
        worker.start(60)

    def kill_worker(self, name: str) -> None:
        """As when its host loses power: it forgets to say so."""
        self.workers.pop(name).lose_power()

    def tick(self) -> None:
        """What a scheduler does all the time."""
        self._see_workers()
        move_windows(self.engine)
        rescue_all(self.engine)
        canary_rollout.judge(self.engine)
        record_batch_events(self.engine)
        self._detector.look()
        self._sender.round()
        self._sender.wait(60)
        self._note_mails()
        self.timeline.after(TICK_S, self.tick)

    def _see_workers(self) -> None:
        run(self.engine, _SEEN, {"names": [name for name, worker in self.workers.items() if worker.is_ready]})

    def _note_mails(self) -> None:
        """Note the mails that were given to sendmail since the last call."""
        for row in run(self.engine, _MAILS, {"after": self._told}):
            self._told, message = row.id, json.loads(row.body)
            mail = message_from_bytes(mail_message(row.body, addresses_of(MAIL)))
            assert message["type"] == row.event
            self.transcript.append(f"{self.timeline.now:%H:%M} mail to {mail['To']}: {mail['Subject']}")


def _split(command: str) -> list[str]:
    return [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', command)]


def _plain(line: str) -> str:
    """Without what differs from machine to machine: who typed it."""
    return re.sub(r" by \S+@\S+: ", " by operator@mill: ", line)
