"""`python -m tests.metrics_page`: write docs/reference/metrics.md from the definitions of the metrics."""

from jobs.monitoring import metrics
from jobs.monitoring.metric_types import METRICS, Metric
from tests.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "metrics.md"

_HEAD = """# Metrics

Written by `python -m tests.metrics_page`; a test compares.

With `NIGHTMILL_METRICS_ADDRESS=0.0.0.0:9464`, the scheduler and the parent process of a worker serve Prometheus' text
format at `/metrics`; without it, nothing listens. `/healthz` answers 200 while the process's main loop goes on,
`/readyz` 200 while it can work: PostgreSQL answers, and all child processes of a worker are up and not all unhealthy.
Else the answer is 503, and its body says why. A worker's `/readyz/busy` also answers 503 when it has had no work for
more than a minute: Kubernetes removes pods that aren't ready first.

The scheduler also answers `/scale/POOL` with how many workers the pool needs now, as in `{"pool": "default",
"wanted": 3}`:
404 if there is no such pool, 503 while PostgreSQL doesn't answer, or answers with an error. What the number
means is told in [scheduling](../scheduling.md).

`run` and `up` give each process a port of its own: the scheduler has the one of the setting, worker 1 the next, and so
on. A process of theirs whose port is in use says so in its log and goes on without metrics; `nightmill worker` and
`nightmill scheduler` end with exit code 1. An address that isn't one of the host is wrong use, exit code 2.

- Anybody who can reach the port can read it: names of batches and models are in there, no prompts. There is no
  encryption and no password; bind it to an address of the cluster's own network.
- Figures of the queue are the same at every scheduler: take `max` of them and not `sum`. They are read by one statement
  at most every 5 seconds. When PostgreSQL doesn't answer within 1.5 seconds they are missing and
  `nightmill_database_up` is 0. When it answers with an error, which the scheduler logs, they are missing, too, and
  `nightmill_database_up` is 1.
- A child process of a worker sends what it has counted to its parent twice a second; one that is killed loses no more
  than that. Counts begin with 0 when the parent starts.
- The usual `process_…` metrics are those of the process that answers, not of its children.
"""


def page() -> str:
    """The whole page, as Markdown."""
    parts = {
        "Worker": metrics.WORKER,
        "Scheduler": metrics.SCHEDULER,
        "Both": metrics.BOTH,
    }
    return _HEAD + "".join(f"\n## {title}\n\n{_table(role)}" for title, role in parts.items())


def _table(role: str) -> str:
    rows = [_row(metric) for metric in METRICS.values() if metric.role == role]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
