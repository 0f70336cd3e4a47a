"""`python -m scheduler`: dispatch, rescue and maintenance tasks until a stop signal."""

import argparse
import logging
from functools import partial

from jobs.db.engine import await_reachable, connect
from jobs.logs.start_logging import start_logging
from jobs.monitoring.http_server import serve
from jobs.monitoring.liveness_and_readiness import Liveness
from jobs.monitoring.systemd_notify import SystemdNotifier
from jobs.process_lifecycle import (
    SignalSafeEvent,
    outlive_hangup,
    stop_on_signals,
    stop_with_parent,
    work_offline,
)
from jobs.services.embedded import services
from jobs.settings import Settings, load_settings
from jobs.unexpected_errors import plain_errors
from scheduler.export.live_exports import LiveExports
from scheduler.loop import run_duties
from scheduler.monitoring.routes import scheduler_routes
from scheduler.retention.archive_and_delete_old_batches import Retention

log = logging.getLogger("scheduler")

SHARD_S = 10.0
"""How long a shard that is being written is waited for when the process stops; later, its lease runs out."""

RETENTION_S = 5.0
"""How long the rows that are being deleted are waited for then; the rest is deleted by the next scheduler."""

STANDSTILL_S = 300.0
"""How long a periodic task may take until `/healthz` says that the process hangs."""


def main() -> None:
    """Settings come from NIGHTMILL_* in the environment."""
    arguments = argparse.ArgumentParser(prog="nightmill scheduler", description=main.__doc__)
    arguments.add_argument("--parent", type=int, help="stop when this process is gone")
    options = arguments.parse_args()
    work_offline()
    settings = load_settings()
    start_logging(settings.log_level, settings.log_format)
    stopping = stop_on_signals()
    outlive_hangup()
    notifier = SystemdNotifier.from_environment(is_supervised=options.parent is not None)
    stop_with_parent(options.parent)
    with services(settings) as configured:
        engine, liveness = connect(configured.database), Liveness(STANDSTILL_S)
        serve_metrics(configured, liveness, is_supervised=options.parent is not None)
        pause = partial(_pause, stopping, liveness)
        await_reachable(engine, settings.database_wait_s, log.warning, pause=pause)
        log.info("scheduling")
        notifier.start(liveness, is_ready=lambda: True)
        exports = LiveExports(configured, engine, stopping).start()
        retention = Retention(configured, engine, stopping).start()
        run_duties(configured, engine, stopping, liveness.beat)
        liveness.stop()
        notifier.stopping()
        exports.join(SHARD_S)
        retention.join(RETENTION_S)
        engine.dispose()


def serve_metrics(settings: Settings, liveness: Liveness, *, is_supervised: bool) -> None:
    """Serve metrics and health checks if the settings ask for it, over a database connection of their own."""
    routes = scheduler_routes(connect(settings.database, pool_size=1), liveness)
    serve(settings.metrics_address, routes, is_supervised=is_supervised)


def _pause(stopping: SignalSafeEvent, liveness: Liveness, seconds: float) -> bool:
    liveness.beat()
    return stopping.wait(seconds)


if __name__ == "__main__":
    with plain_errors():
        main()
