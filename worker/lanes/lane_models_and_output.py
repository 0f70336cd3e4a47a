"""What a lane needs on this host: its models and its output. If one isn't available, no job is at fault."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobs.errors import UsageError
from jobs.job_dataclasses import Lane
from jobs.outputs.mount_marker import open_output
from jobs.outputs.ownership import claim
from jobs.queue import lane_counts_and_low_watermarks
from jobs.settings import Settings
from jobs.storage.open import ObjectStore, S3Options, check_writable
from models.errors import InterruptedRender
from worker.content_safety_requests import ContentSafetyRequests, uses_service
from worker.health.error_classification import HostFaultError, reason_of
from worker.health.lane_backoff import Health
from worker.health.what_a_lane_depends_on import (
    CONTENT_SAFETY,
    folder_of,
    models_of,
    output_of,
    policy_of,
    work_of,
)
from worker.model_cache.cache import ModelCache
from worker.model_cache.lane_models import LaneModels


@dataclass(frozen=True)
class Started:
    """The models that the lane's jobs need, and the store that they write to."""

    lane_models: LaneModels
    store: ObjectStore


@dataclass(frozen=True)
class LaneSetup:
    """Loads lanes' models and opens their outputs, and records in `health` what fails on this host."""

    settings: Settings
    engine: Engine
    model_cache: ModelCache
    health: Health
    content_safety: ContentSafetyRequests | None = None
    buckets: dict[str, ObjectStore] = field(default_factory=dict)
    """Open S3 outputs, cached because setting up a client takes a third of a second."""

    def may_claim(self, lane: Lane) -> bool:
        """Whether jobs of the lane may be claimed; after a fault, the lane is first started without jobs, as a test."""
        places = output_of(lane), folder_of(lane)
        services = [CONTENT_SAFETY] if uses_service(lane) else []
        causes = policy_of(lane), models_of(lane, self.settings), *places, *services, work_of(lane.id)
        known = [(cause, fault) for cause in causes if (fault := self.health.fault(cause))]
        for cause, fault in known:
            if fault.is_waiting():
                self.health.failed(cause, fault.reason, lane.id)
                return False
        return not known or self.start(lane) is not None

    def start(self, lane: Lane) -> Started | None:
        """Load the lane's models and open its output; None if that fails on this host, or if the worker is to stop."""
        count = lane_counts_and_low_watermarks.job_count(self.engine, lane)
        try:
            with self._noted(lane, policy_of(lane), f"can't follow the policy of {lane.batch}"):
                lane.require_known_policy()
            with (
                self._noted(lane, models_of(lane, self.settings), f"can't load the model {lane.model!r}"),
                self.model_cache.loading(),
            ):
                lane_models = self.model_cache.lane_models(lane)
                self.model_cache.prepare(lane, count)
            with self._noted(lane, output_of(lane), f"can't write to {lane.output}"):
                store = self._writable_store(lane)
            with self._noted(lane, folder_of(lane), f"can't write the images of {lane.batch}"):
                claim(self.engine, store, lane.batch_id, lane.folder)
            if uses_service(lane):
                with self._noted(lane, CONTENT_SAFETY, f"can't check the images of {lane.batch}"):
                    self._check_content_safety(lane)
        except (HostFaultError, InterruptedRender):
            return None
        return Started(lane_models, store)

    def _check_content_safety(self, lane: Lane) -> None:
        """Ask the service if it is needed the first time, or after a fault: no image is rendered in vain."""
        if self.content_safety is None:
            raise UsageError(
                "the batch's `safety_checkers` needs the content-safety service: set "
                "NIGHTMILL_CONTENT_SAFETY_URL and NIGHTMILL_CONTENT_SAFETY_KEY"
            )
        is_doubted = self.health.fault(CONTENT_SAFETY) or self.health.fault(work_of(lane.id))
        if is_doubted or not self.health.has_worked(CONTENT_SAFETY):
            self.content_safety.check(lane)

    def _writable_store(self, lane: Lane) -> ObjectStore:
        store = self._store(lane)
        if self.health.fault(output_of(lane)):
            check_writable(store)
        return store

    def _store(self, lane: Lane) -> ObjectStore:
        """Return the output's store, reopened after a fault; UsageError or ObjectStoreError if it can't be opened."""
        kept = self.buckets.pop(lane.output, None)
        if kept is None or self.health.fault(output_of(lane)):
            s3 = S3Options(endpoint_url=self.settings.s3_endpoint_url, region=self.settings.s3_region)
            kept = open_output(self.engine, lane.output, s3)
        if lane.output.startswith("s3://"):
            self.buckets[lane.output] = kept
        return kept

    @contextmanager
    def _noted(self, lane: Lane, cause: Hashable, what: str) -> Iterator[None]:
        """Record any error in this block as a fault with that cause, and raise it as a HostFaultError."""
        try:
            yield
        except (InterruptedRender, SQLAlchemyError):
            raise
        except (Exception, SystemExit) as error:
            reason = f"{what}: {reason_of(error)}"
            self.health.failed(cause, reason, lane.id)
            raise HostFaultError(reason) from error
        if cause != output_of(lane) or self.health.fault(cause):
            self.health.went_well(cause)
