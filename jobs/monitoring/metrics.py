"""All metrics of nightmill: names, labels and help texts. `python -m tests.metrics_page` writes the reference of them.

No metric has a label for each job; labels of batches name the first 20 that are unfinished. So the number of time
series doesn't grow with the work.
"""

from jobs.monitoring.metric_types import Counter, Gauge, Histogram
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

IMAGES = Counter(
    "nightmill_images_total", "Images that were stored with their rows.", ("model",), role=WORKER
)
REUSED_IMAGES = Counter(
    "nightmill_reused_images_total",
    "Files that were copied from images of the same inputs instead of rendering.",
    ("model",),
    role=WORKER,
)
STAGE_SECONDS = Histogram(
    "nightmill_stage_seconds",
    "An image's share of the time that a stage of the pipeline took for its batch.",
    ("stage",),
    role=WORKER,
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 15, 60),
)
DEVICE_BATCH_SECONDS = Histogram(
    "nightmill_device_batch_seconds",
    "From when a job enters the device batch until its image is rendered.",
    role=WORKER,
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320),
)
DEVICE_BUSY = Counter(
    "nightmill_device_busy_seconds_total",
    "Time in which a child process rendered: its rate is the share of the time that the device was in use.",
    ("device",),
    role=WORKER,
)
MODEL_LOAD_SECONDS = Histogram(
    "nightmill_model_load_seconds",
    "Loading a lane's models, as far as they weren't loaded already.",
    ("model",),
    role=WORKER,
    buckets=(1, 2, 5, 10, 20, 40, 80, 160, 320),
)
UPLOADED_BYTES = Counter(
    "nightmill_upload_bytes_total", "Bytes of image files that were stored.", role=WORKER
)
STORE_ERRORS = Counter(
    "nightmill_store_errors_total",
    "Images that could not be stored at a try: unavailable, gone (an emptied folder, a lost mount), foreign (another "
    "installation's) or refused.",
    ("kind",),
    role=WORKER,
)
LEASES_LOST = Counter(
    "nightmill_leases_lost_total",
    "Jobs in progress that were cancelled, or given to another worker because their lease had run out.",
    role=WORKER,
)
WORKER_HEALTHY = Gauge(
    "nightmill_worker_healthy",
    "1 if the child process is healthy, 0 if a fault keeps it from lanes; missing while there is no process.",
    ("device",),
    role=WORKER,
)
CHILDREN = Gauge("nightmill_children", "Child processes that the worker shall have.", role=WORKER)
CHILDREN_UP = Gauge("nightmill_children_up", "Child processes that have started and live.", role=WORKER)
CHILDREN_RESTARTED = Counter(
    "nightmill_children_restarted_total",
    "Child processes that ended and were replaced: stalled (killed by the watchdog), unhealthy (ended by itself after "
    "repeated failures), killed (by a signal, as for want of memory) or crashed.",
    ("reason",),
    role=WORKER,
)

DATABASE_UP = Gauge(
    "nightmill_database_up",
    "1 if PostgreSQL has answered, be it with an error, else 0. After an error, and without an answer, all figures of "
    "the queue are missing.",
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
UNSERVED_LANES = Gauge(
    "nightmill_unserved_lanes",
    "Unfinished lanes whose model no pool processes: they wait until a pool gets it.",
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
    "Child processes of workers that have reported within a minute: starting, idle, busy, draining, drained, "
    "unhealthy.",
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
WEBHOOK_ATTEMPTS = Counter(
    "nightmill_webhook_attempts_total",
    "Attempts to deliver messages to webhooks: delivered, failed (tried again later) or dead (given up).",
    ("outcome",),
    role=SCHEDULER,
)
WAKEUPS_SENT = Counter("nightmill_wakeups_sent_total", "Wake-up messages sent to workers.", role=SCHEDULER)


def count_attempts(outcome: str, count: int) -> None:
    """Count attempts that have ended, and with those that end their jobs, the jobs."""
    if count:
        ATTEMPTS.add(count, outcome)
        if outcome in (JobState.DONE, JobState.FAILED, JobState.BLOCKED):
            JOBS_ENDED.add(count, outcome)
