"""All metrics of nightmill: names, labels and help texts. `python -m tests.metrics_page` writes the reference of them.

No metric has a label for each job; labels of batches name the first 20 that are unfinished. So the number of time
series doesn't grow with the work.
"""

from jobs.monitoring.metric_types import Counter, Gauge
from jobs.states import JobState

WORKER, SCHEDULER, BOTH = "worker", "scheduler", ""

MOST_BATCHES = 20
"""How many unfinished batches have time series of their own."""

BUILD_INFO = Gauge("nightmill_build_info", "Always 1; the version is a label.", ("version",), role=BOTH)

ATTEMPTS = Counter(
    "nightmill_attempts_total",
    "Attempts that have ended: done, retried, failed, blocked, expired (the worker died) or returned (not charged).",
    ("outcome",),
    role=BOTH,
)
JOBS_ENDED = Counter(
    "nightmill_jobs_ended_total", "Jobs that have ended: done, failed or blocked.", ("state",), role=BOTH
)

DATABASE_UP = Gauge(
    "nightmill_database_up",
    "1 if PostgreSQL has answered, else 0: all figures of the queue are missing then.",
    role=SCHEDULER,
)
JOBS = Gauge("nightmill_jobs", "Jobs of all unfinished batches.", ("state",), role=SCHEDULER)
UNFINISHED_BATCHES = Gauge("nightmill_unfinished_batches", "Batches with unfinished jobs.", role=SCHEDULER)
BATCH_JOBS = Gauge(
    "nightmill_batch_jobs",
    f"Jobs of a batch, for the first {MOST_BATCHES} unfinished batches by priority and age.",
    ("batch", "state"),
    role=SCHEDULER,
)
BATCH_ETA = Gauge(
    "nightmill_batch_eta_seconds",
    "Estimated time until the batch is finished; missing while it is unknown.",
    ("batch",),
    role=SCHEDULER,
)
BATCH_DEADLINE = Gauge(
    "nightmill_batch_deadline_seconds",
    "Deadline of the batch as Unix time; missing if it has none.",
    ("batch",),
    role=SCHEDULER,
)
OLDEST_CLAIMABLE = Gauge(
    "nightmill_oldest_claimable_job_age_seconds",
    "How long the oldest job that a worker could claim now has been claimable; 0 if there is none.",
    role=SCHEDULER,
)
LANE_WAIT = Gauge(
    "nightmill_lane_wait_seconds",
    "How long the lane that waits longest has had claimable jobs and wasn't picked by a worker; 0 if there is none.",
    role=SCHEDULER,
)
FEED_LAG = Gauge(
    "nightmill_feed_lag_seconds",
    "Age of the oldest open transaction that has written: the feed of image rows stops before it. Needs the role "
    "pg_read_all_stats to see other users' transactions.",
    role=SCHEDULER,
)
WORKERS = Gauge(
    "nightmill_workers",
    "Child processes of workers that have reported within a minute: starting, idle, busy, draining, unhealthy.",
    ("pool", "state"),
    role=SCHEDULER,
)
WANTED_WORKERS = Gauge(
    "nightmill_wanted_workers",
    "How many workers the pool needs now, as `/scale/POOL` says.",
    ("pool",),
    role=SCHEDULER,
)
RESCUED_JOBS = Counter(
    "nightmill_rescued_jobs_total",
    "Jobs with expired leases that were queued again or failed.",
    role=SCHEDULER,
)
WAKEUPS_SENT = Counter("nightmill_wakeups_sent_total", "Wake-up messages sent to workers.", role=SCHEDULER)


def count_attempts(outcome: str, count: int) -> None:
    """Count attempts that have ended, and with those that end their jobs, the jobs."""
    if count:
        ATTEMPTS.add(count, outcome)
        if outcome in (JobState.DONE, JobState.FAILED, JobState.BLOCKED):
            JOBS_ENDED.add(count, outcome)
