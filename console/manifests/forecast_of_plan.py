"""When the batch that a plan is about would end, from the installation there is."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from sqlalchemy import Engine

from console.manifests.matrix_speed_of_this_machine import image_time
from console.session import session
from console.terminal.output import note
from jobs.db.engine import database_time
from jobs.errors import ServiceError
from jobs.forecast.forecast_batch import empty_forecast, forecast
from jobs.forecast.forecast_result import Forecast
from jobs.forecast.queued_lanes import QueuedLane
from jobs.forecast.work_kinds_and_ranges import Range, WorkKind
from jobs.setting_values.device_hour_prices import DevicePrices
from jobs.settings import Settings
from scheduler.ingest.dry_run_plan import Plan
from scheduler.ingest.find_batch import find_batch
from scheduler.ingest.planned_lanes import planned_lanes
from scheduler.ingest.submit_request import SubmitRequest


@contextmanager
def installation(
    settings: Settings, without: str = "planned without what workers have measured"
) -> Iterator[Engine | None]:
    """Open the database; None if there is no installation yet or, with a note that says why, it can't be used."""
    with ExitStack() as stack:
        engine = None
        if settings.database_url is not None or (settings.data_dir / "postgres").exists():
            try:
                engine = stack.enter_context(session(settings)).engine
            except ServiceError as error:
                note(f"{without}: {error}")
        yield engine


def forecast_of(
    plan: Plan, request: SubmitRequest, settings: Settings, engine: Engine | None
) -> Forecast | None:
    """Forecast a batch that has jobs; this machine is measured only if there is no worker anywhere."""
    lanes = planned_lanes(plan, request)
    if not lanes:
        return None
    gflop: dict[WorkKind, float] = {lane.kind: image for lane, image in lanes.items()}

    def local_time(lane: QueuedLane) -> Range | None:
        return image_time(settings, gflop[lane.kind]) if lane.kind in gflop else None

    if engine is None:
        # Workers that can't be asked about may be anywhere: this machine says nothing about them.
        has_none, now = settings.database_url is None, datetime.now(UTC)
        return empty_forecast(list(lanes), request.policy, now, local_time if has_none else lambda _: None)
    with engine.connect() as connection:
        same = find_batch(connection, request)
    if same is not None:
        note(
            f"this is batch {same.name} already: `nightmill status {same.name}` tells when what is left of it ends"
        )
    now, prices = database_time(engine), DevicePrices.parse(settings.hour_price)
    return forecast(
        engine, list(lanes), request.policy, now, prices, local_time, None if same is None else same.id
    )
