"""What a worker process keeps between lane sessions."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine

from jobs.content_safety.client import ContentSafetyService
from jobs.db.installation_id import this_installation
from jobs.job_dataclasses import LaneId
from jobs.monitoring import metrics
from jobs.process_lifecycle import SignalSafeEvent
from jobs.settings import Settings
from jobs.states import WorkerActivity
from jobs.storage.open import ObjectStore
from models.provenance.sign_file import FileSigner
from worker.content_safety_requests import ContentSafetyRequests
from worker.health.fault_attribution import LATELY_S, CircuitBreaker
from worker.health.lane_backoff import Health
from worker.lanes.reload_rotated_signing_identity import CurrentSigner
from worker.liveness.lease_keeper import LeaseKeeper
from worker.liveness.progress_heartbeat import Heartbeat
from worker.model_cache.cache import ModelCache
from worker.model_cache.lane_models import LaneModels
from worker.monitoring.device_usage import DeviceUsage
from worker.monitoring.job_traces import JobTraces


@dataclass(frozen=True)
class WorkerContext:
    """Settings, connections, leases, models and health of one worker process."""

    settings: Settings
    engine: Engine
    leases: LeaseKeeper
    model_cache: ModelCache
    stopping: SignalSafeEvent
    worker: str
    heartbeat: Heartbeat = field(default_factory=lambda: Heartbeat(math.inf))
    handover: Path | None = None
    traces: JobTraces = field(default_factory=JobTraces)
    buckets: dict[str, ObjectStore] = field(default_factory=dict)
    usage: DeviceUsage = field(default_factory=DeviceUsage)

    def pause(self, seconds: float) -> bool:
        """Wait for a service and return whether the worker is to stop. The watchdog doesn't count this as a hang."""
        self.heartbeat.beat()
        return self.stopping.wait(seconds)

    @contextmanager
    def device_batch(self, lane_models: LaneModels, lane: LaneId) -> Iterator[None]:
        """Watch this block as work of the device, which must go on, and measure its time."""
        self.usage.begin(lane_models.device)
        began_s = time.monotonic()
        try:
            with self.heartbeat.device_batch(lane_models, lane):
                yield
        finally:
            took_s = time.monotonic() - began_s
            self.usage.add(took_s)
            metrics.DEVICE_BUSY.add(took_s, self.leases.device)

    def note(self, activity: WorkerActivity, lane: LaneId | None = None) -> None:
        """Report in the table of workers what this worker does from now on."""
        self.leases.registration.note(activity, lane, self.model_cache.models())

    def is_unable(self) -> bool:
        """Whether a fault keeps this worker from some lanes, or an operator has drained it."""
        is_drained = self.leases.registration.is_drained
        return is_drained or bool(self.health.avoided()) or not self.health.is_healthy()

    @cached_property
    def installation(self) -> UUID:
        """What tiled marks and signed manifests name this installation by; the nil UUID where there are none."""
        if not self.settings.has_tiled_marks and self.signer is None:
            return UUID(int=0)
        id: UUID = this_installation(self.engine).id
        return id

    @property
    def signer(self) -> FileSigner | None:
        """What signs files, by the identity as it is now; None: they aren't signed."""
        return self._current_signer.get()

    @cached_property
    def _current_signer(self) -> CurrentSigner:
        """Made here, as it is of no use in a process that forks from it."""
        return CurrentSigner(self.settings)

    @cached_property
    def content_safety(self) -> ContentSafetyRequests | None:
        """The service that rates images and prompts, where there is one."""
        endpoint, key = self.settings.content_safety_url, self.settings.content_safety_key
        if endpoint is None or key is None:
            return None
        service = ContentSafetyService(endpoint, key.get_secret_value(), self.stopping.wait)
        return ContentSafetyRequests(service)

    @cached_property
    def health(self) -> Health:
        """The faults that keep this worker from lanes."""
        return Health(self.engine, self.worker, self.leases.device, self.handover)

    @cached_property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker; after a restart it compares only with images that other workers store from now on."""
        within_s = 0.0 if self.health.has_rested() else LATELY_S
        return CircuitBreaker(self.engine, self.health, self.model_cache.check_device, within_s)
