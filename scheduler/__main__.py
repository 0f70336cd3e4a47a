"""`python -m scheduler`: dispatch, rescue and maintenance tasks until a stop signal."""

import argparse
import logging

from jobs.db.engine import await_reachable, connect
from jobs.process_lifecycle import start_logging, stop_on_signals, stop_with_parent, work_offline
from jobs.services.embedded import services
from jobs.settings import load_settings
from jobs.unexpected_errors import plain_errors
from scheduler.loop import run_duties

log = logging.getLogger(__name__)


def main() -> None:
    """Settings come from NIGHTMILL_* in the environment."""
    arguments = argparse.ArgumentParser(prog="nightmill scheduler", description=main.__doc__)
    arguments.add_argument("--parent", type=int, help="stop when this process is gone")
    options = arguments.parse_args()
    work_offline()
    settings = load_settings()
    start_logging(settings.log_level)
    stopping = stop_on_signals()
    stop_with_parent(options.parent)
    with services(settings) as configured:
        engine = connect(configured.database)
        await_reachable(engine, settings.database_wait_s, log.warning, pause=stopping.wait)
        log.info("scheduling")
        run_duties(configured, engine, stopping)
        engine.dispose()


if __name__ == "__main__":
    with plain_errors():
        main()
