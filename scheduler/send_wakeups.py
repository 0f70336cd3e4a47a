"""Dispatch: keeps as many wake-up messages in Redis as there are workers to process them.

Publishing may fail or hang while Redis is down: attempts have short time-outs, and the next tick tries again.
"""

import logging
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import Engine, text

from jobs.celery_config import WAKEUP_TASK, celery_settings
from jobs.db.engine import run
from jobs.job_dataclasses import LaneId
from jobs.monitoring import metrics
from jobs.queue.fair_share import waiting_lanes
from jobs.rate_limited_log import RateLimitedLog
from jobs.settings import Settings, queue_of_pool
from scheduler.check_redis import refusal

log = logging.getLogger(__name__)

_POOLS = text("""
    SELECT pools.name, count(workers.name) AS workers
    FROM pools LEFT JOIN workers ON pool = pools.name AND seen_at > now() - make_interval(secs => :seen_s)
    GROUP BY 1 ORDER BY 1
""")


class Dispatcher:
    """Sends wake-up messages. Several may run at once: they check the same list, and a surplus message is harmless."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.app = _sender(settings)
        self._log = RateLimitedLog(log)

    def top_up(self) -> int:
        """Send the missing wake-ups and return how many; if the broker can't be reached, log a warning and return 0."""
        seen_s = max(5.0, 2 * self.settings.lease_s)
        pools = run(self.engine, _POOLS, {"seen_s": seen_s})
        try:
            return sum(self._top_up_pool(pool.name, max(1, pool.workers)) for pool in pools)
        except (OperationalError, RedisError, OSError) as error:
            reason = refusal(error)
            self._log.tell(reason, f"can't send wake-ups: {reason}")
            self._reconnect()
            return 0

    def close(self) -> None:
        """Close the connections."""
        self.app.close()

    def _reconnect(self) -> None:
        self.app.close()
        self.app = _sender(self.settings)

    def _top_up_pool(self, pool: str, wanted: int) -> int:
        """Send what a pool's list lacks of `wanted` wake-ups, if there is work for it; returns how many."""
        queue = queue_of_pool(self.settings.queue, pool)
        missing = wanted - self._waiting(queue)
        lanes = _spread(waiting_lanes(self.engine, missing, pool), missing) if missing > 0 else []
        for lane in lanes:
            self._send(lane, queue)
            metrics.WAKEUPS_SENT.add(1)
        return len(lanes)

    def _waiting(self, queue: str) -> int:
        with self.app.connection_for_read() as connection:
            client: Any = connection.default_channel.client  # type: ignore[attr-defined]
            waiting: int = client.llen(queue)
            return waiting

    def _send(self, lane: LaneId, queue: str) -> None:
        """Push straight to the list: kombu's queue and exchange records in Redis aren't needed, nor trusted."""
        self.app.send_task(WAKEUP_TASK, (lane,), queue=queue, declare=[], retry=False, ignore_result=True)


def _sender(settings: Settings) -> Celery:
    """Return an application that tries once: the scheduler has other tasks, and the next tick tries again."""
    app = Celery("nightmill")
    app.conf.update(celery_settings(settings))
    app.conf.broker_transport_options = app.conf.broker_transport_options | {"max_retries": 0}
    return app


def _spread(lanes: list[LaneId], wanted: int) -> list[LaneId]:
    """Spread `wanted` wake-ups over the lanes, the best first, starting over if there are more wake-ups than lanes."""
    return [lanes[i % len(lanes)] for i in range(wanted)] if lanes else []
