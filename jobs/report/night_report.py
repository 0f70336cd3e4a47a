"""The report of a night: what ended, failed, was blocked and used since a moment, and what still runs."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import database_time, run
from jobs.queue.sum_usage import quarter_of, usage_by
from jobs.report.batches_since import batches_since
from jobs.report.failures_since import failure_kinds_since
from jobs.report.workers_since import workers_since
from jobs.setting_values.device_hour_prices import DevicePrices
from jobs.webhooks.registry import shown

# Messages to webhooks and hooks that failed and weren't delivered since, the last ones first.
_UNTOLD = text("""
    SELECT url, event, state, attempts, error, next_try_at
    FROM webhook_deliveries d JOIN webhooks w ON w.id = webhook_id
    WHERE error IS NOT NULL AND d.state <> 'delivered' AND d.created_at >= :since
      AND (CAST(:batches AS bigint[]) IS NULL
        OR CAST(CAST(body AS jsonb) #>> '{data,batch}' AS bigint) = ANY (CAST(:batches AS bigint[])))
    ORDER BY d.id DESC LIMIT 100
""")


def collect_report(
    engine: Engine, since: datetime, tenant: str | None = None, prices: DevicePrices | None = None
) -> dict[str, Any]:
    """Return the report since then: `batches`, `failures`, `workers`, `usage` by tenant and device, each worst first.

    `untold` are messages that webhooks and hooks didn't take, the newest first, without the values of URLs' queries.
    Usage and images are counted from the quarter of an hour on that the moment lies in. Of one tenant, if given: its
    batches with their failures and messages, its usage, and the workers that worked for it.
    """
    usage = [
        use | {"cost": prices.cost(use["device"], use["worker_s"]) if prices else None}
        for use in usage_by(engine, "tenant", "device", since=since, tenant=tenant)
    ]
    batches = batches_since(engine, since, tenant)
    untold = {"since": since, "batches": None if tenant is None else [batch["batch"] for batch in batches]}
    return {
        "since": since.isoformat(),
        "usage_since": quarter_of(since).isoformat(),
        "until": database_time(engine).isoformat(),
        "tenant": tenant,
        "batches": batches,
        "failures": failure_kinds_since(engine, since, tenant),
        "workers": workers_since(engine, since, tenant),
        "usage": usage,
        "untold": [dict(row._mapping) | {"url": shown(row.url)} for row in run(engine, _UNTOLD, untold)],
    }
