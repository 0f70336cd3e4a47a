"""Database schema. `jobs` is the single source of truth about jobs; `jobs.queue.transitions` has all its changes.

`jobs` has no foreign keys: they are checked row by row and would slow bulk ingest down considerably.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB

from jobs.db.accepted_images_table import image_acceptance
from jobs.db.constraint_names_and_column_types import Xid8, key, metadata, moment, one_of
from jobs.db.export_tables import export_shards, exports
from jobs.db.feed_events_and_consumers_tables import archived_jobs, consumers, events
from jobs.db.images_table import images
from jobs.db.quarantined_images_table import quarantined_images
from jobs.db.usage_tables import lane_usage, worker_events
from jobs.db.webhook_tables import webhook_deliveries, webhook_secrets, webhooks
from jobs.states import (
    FINISHED,
    RETRYABLE,
    WITH_ERROR,
    CanaryVerdict,
    DrainKind,
    JobState,
    Mode,
    Outcome,
    SeedSource,
    WorkerActivity,
    WorkerState,
    sql_list,
)

__all__ = [
    "Xid8",
    "archived_jobs",
    "consumers",
    "events",
    "export_shards",
    "exports",
    "image_acceptance",
    "images",
    "lane_usage",
    "metadata",
    "quarantined_images",
    "webhook_deliveries",
    "webhook_secrets",
    "webhooks",
    "worker_events",
]

batches = Table(
    "batches",
    metadata,
    key(),
    Column("name", Text, nullable=False, unique=True),
    Column(
        "digest",
        Text,
        nullable=False,
        unique=True,
        comment="of manifest and settings: same again, same batch",
    ),
    Column("manifest", Text, nullable=False),
    Column("manifest_sha256", Text, nullable=False),
    Column("settings", JSONB, nullable=False, comment="as given: columns set, headers mapped"),
    Column("output", Text, nullable=False, comment="folder or s3://bucket/prefix"),
    Column("max_attempts", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False, comment="higher first"),
    Column("rows", BigInteger, nullable=False, server_default=text("0")),
    Column("rejected", BigInteger, nullable=False, server_default=text("0")),
    Column("jobs", BigInteger, nullable=False, server_default=text("0")),
    moment("created_at", nullable=False, default="now()"),
    moment("paused_at"),
    moment("cancelled_at"),
    Column("stopped_because", Text, comment="why it was paused by nightmill itself"),
    Column("window", Text, comment="HH:MM-HH:MM Zone: when it may be worked at"),
    moment("opens_at"),
    moment("closes_at"),
    moment("not_before"),
    moment("deadline"),
    Column("canary", Integer, nullable=False, server_default=text("0"), comment="rows that go ahead of all"),
    Column("canary_bound", Float, nullable=False, server_default=text("0.5")),
    Column("canary_verdict", Text, comment="null while the first rows are on their way"),
    moment("archived_at"),
    Column(
        "policy",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="keys of BatchPolicy that are no columns and not their defaults",
    ),
    moment("ended_at"),
    Column("lines", JSONB, comment="lines of the manifest, counted by what they are"),
    Column(
        "seed_from",
        Text,
        nullable=False,
        server_default=text("'row'"),
        comment="what the rows' derived seeds depend on, beside the batch seed",
    ),
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'"), comment="labels, sorted"),
    Column("folder", Text, comment="of its files, if it was renamed; null: its name"),
    Column(
        "pauses",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="by what it is paused (name, all, tenant:NAME): who, at, reason",
    ),
    moment("started_at"),
    CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,99}$'", "name"),
    CheckConstraint("max_attempts BETWEEN 1 AND 100", "max_attempts"),
    CheckConstraint('(opens_at IS NULL) = ("window" IS NULL) AND opens_at < closes_at', "window"),
    CheckConstraint("canary >= 0 AND canary_bound BETWEEN 0 AND 1", "canary"),
    CheckConstraint(one_of("canary_verdict", CanaryVerdict), "canary_verdict"),
    CheckConstraint(one_of("seed_from", SeedSource), "seed_from"),
    CheckConstraint("jsonb_typeof(policy) = 'object'", "policy"),
    Index("batches_folder_idx", text("coalesce(folder, name)"), unique=True),
)

lanes = Table(
    "lanes",
    metadata,
    key(),
    Column("batch_id", BigInteger, ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    Column("model", Text, nullable=False),
    Column("width", Integer, nullable=False, comment="0, and height too: as the picture to start from"),
    Column("height", Integer, nullable=False),
    Column("upscale", SmallInteger, nullable=False, comment="0 or 4"),
    moment("chosen_at"),
    Column("mode", Text, nullable=False, server_default=text("'text2image'")),
    Column("lora", Text, nullable=False, server_default=text("''"), comment="as id:weight+id:weight"),
    Column("tenant", Text, nullable=False, server_default=text("''"), comment="whose jobs; empty: nobody's"),
    Column(
        "low_watermark",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="no job up to this id waits for its first claim",
    ),
    Column("image_s", Float, comment="seconds of one worker for an image, as measured"),
    Column(
        "batch_s", Float, comment="seconds from the begin of a device batch until it is stored, slow ones"
    ),
    Column(
        "ended_at",
        DateTime(timezone=True),
        comment="when no job was queued or running any more; null: there may be some",
    ),
    CheckConstraint(one_of("mode", Mode), "mode"),
    CheckConstraint("tenant <> '*'", "tenant"),
    UniqueConstraint("batch_id", "tenant", "model", "mode", "lora", "width", "height", "upscale"),
    Index("lanes_ended_at_idx", "ended_at"),
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", Text, primary_key=True, comment="empty: of rows without one"),
    Column("weight", Integer, nullable=False, server_default=text("1")),
    Column("max_running", Integer, comment="jobs that may run at once; null: any number"),
    Column("used_s", Float, nullable=False, server_default=text("0"), comment="worker seconds per weight"),
    Column("max_queued", BigInteger, comment="open jobs that a submit may leave it with; null: any number"),
    Column("prompt_terms", Text, comment="that its prompts must not hold, one a line; null: none of its own"),
    CheckConstraint("max_queued >= 0", "max_queued"),
    CheckConstraint("name <> '*'", "name"),
    CheckConstraint("weight BETWEEN 1 AND 1000", "weight"),
    CheckConstraint("max_running >= 0", "max_running"),
)

fair_share = Table(
    "fair_share",
    metadata,
    Column("id", Boolean, primary_key=True, server_default=text("true"), comment="there is one row"),
    Column(
        "virtual_time",
        Float,
        nullable=False,
        server_default=text("0"),
        comment="used_s of the tenant that was picked last: who comes back starts level with it",
    ),
    Column("max_running", Integer, comment="jobs of all tenants that may run at once; null: any number"),
    CheckConstraint("id", "id"),
    CheckConstraint("max_running >= 0", "max_running"),
)

time_slices = Table(
    "time_slices",
    metadata,
    Column("id", Uuid, primary_key=True, comment="made by the worker, so that it is begun and ended once"),
    Column("lane_id", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("slice_s", Float, nullable=False, comment="worker seconds charged when it began"),
    Column("weight", Integer, nullable=False, comment="the tenant's when it began"),
    moment("begun_at", nullable=False, default="now()"),
)

job_counts = Table(
    "job_counts",
    metadata,
    key(),
    Column("batch_id", BigInteger, ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    Column("lane_id", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column(
        "delta", BigInteger, nullable=False, comment="counts are sums of these; rows are folded now and then"
    ),
    Index("job_counts_lane_id_idx", "batch_id", "lane_id", "state"),
)

jobs = Table(
    "jobs",
    metadata,
    key(),
    Column("batch_id", BigInteger, nullable=False),
    Column("lane_id", BigInteger, nullable=False),
    Column("ordinal", BigInteger, nullable=False, comment="0-based data row of the manifest"),
    Column("index", Integer, nullable=False, comment="which of the row's images"),
    Column("row_id", Text, comment="the manifest's own id"),
    Column("prompt", Text, nullable=False),
    Column("negative_prompt", Text, nullable=False),
    Column("steps", SmallInteger, nullable=False),
    Column("guidance_scale", Float, nullable=False),
    Column("sampler", Text, nullable=False),
    Column("seed", Numeric(20, 0), nullable=False),
    Column("noise_level", SmallInteger),
    Column("tenant", Text),
    Column("meta", JSON, nullable=False, comment="as the manifest has it: order of keys, form of numbers"),
    Column("state", Text, nullable=False, server_default=text("'queued'")),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    Column("lease", Uuid),
    moment("lease_until"),
    Column(
        "not_before",
        DateTime(timezone=True),
        comment="null: never claimed, found by id; else found by this, as all that come back to the queue",
    ),
    Column("worker", Text),
    moment("started_at"),
    moment("finished_at"),
    Column("error_kind", Text),
    Column("error_text", Text),
    Column("init_image", Text, comment="absolute path or s3://bucket/key, as the next two"),
    Column("mask_image", Text),
    Column("depth_image", Text),
    Column("strength", Float),
    Column("replaces", BigInteger, comment="the job without an image that this one makes up for"),
    CheckConstraint(one_of("state", JobState), "state"),
    CheckConstraint("(state = 'running') = (lease IS NOT NULL)", "lease"),
    CheckConstraint("(lease IS NULL) = (lease_until IS NULL)", "lease_until"),
    CheckConstraint(f"({one_of('state', FINISHED)}) = (finished_at IS NOT NULL)", "finished_at"),
    CheckConstraint(f"state NOT IN ({sql_list(WITH_ERROR)}) OR error_kind IS NOT NULL", "error_kind"),
    CheckConstraint("attempt >= 0 AND (state NOT IN ('running', 'done') OR attempt > 0)", "attempt"),
    CheckConstraint("seed >= 0 AND seed < 18446744073709551616", "seed"),
    CheckConstraint("strength > 0 AND strength <= 1", "strength"),
    UniqueConstraint("batch_id", "ordinal", "index"),
    Index("jobs_replaces_key", "replaces", unique=True, postgresql_where=text("replaces IS NOT NULL")),
    Index(
        "jobs_fresh_idx", "lane_id", "id", postgresql_where=text("state = 'queued' AND not_before IS NULL")
    ),
    Index(
        "jobs_due_idx",
        "lane_id",
        "not_before",
        "id",
        postgresql_where=text("state = 'queued' AND not_before IS NOT NULL"),
    ),
    Index("jobs_lease_idx", "lease_until", postgresql_where=text("state = 'running'")),
    Index(
        "jobs_retry_idx",
        "batch_id",
        "id",
        postgresql_where=text(f"state IN ({sql_list(RETRYABLE)})"),
    ),
)

attempts = Table(
    "attempts",
    metadata,
    key(),
    Column("job_id", BigInteger, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("worker", Text),
    Column("outcome", Text, nullable=False),
    Column("error_kind", Text),
    Column("error_text", Text),
    moment("started_at"),
    moment("ended_at", nullable=False, default="now()"),
    CheckConstraint(one_of("outcome", Outcome), "outcome"),
    Index("attempts_job_id_idx", "job_id"),
    Index("attempts_ended_at_idx", "ended_at"),
)

feed_epochs = Table(
    "feed_epochs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column(
        "cluster",
        Text,
        nullable=False,
        comment="where rows of this epoch were written: system identifier/timeline",
    ),
    moment("begun_at", nullable=False, default="now()"),
)

rejects = Table(
    "rejects",
    metadata,
    key(),
    Column("batch_id", BigInteger, ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("column", Text),
    Column("reason", Text, nullable=False),
    Column("excerpt", Text, nullable=False),
    Index("rejects_batch_id_idx", "batch_id", "id"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("device", Text, nullable=False),
    moment("started_at", nullable=False, default="now()"),
    moment("seen_at", nullable=False, default="now()"),
    Column("state", Text, nullable=False, server_default=text("'healthy'")),
    Column("reason", Text, comment="what keeps an unhealthy worker from its work"),
    moment("since"),
    moment("next_try_at"),
    Column(
        "lane_faults",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="lane id: what keeps the worker from it; empty in an unhealthy worker: it works in none",
    ),
    moment("stored_at"),
    Column("pool", Text, nullable=False, server_default=text("'default'")),
    Column("activity", Text, comment="null: of a worker of an earlier version"),
    moment("activity_since"),
    Column("lane_id", BigInteger, comment="the lane of a busy worker"),
    Column(
        "warm_models",
        ARRAY(Text),
        nullable=False,
        server_default=text("'{}'"),
        comment="models that it holds in memory",
    ),
    Column("version", Text, comment="of nightmill; null: one that doesn't look for drains"),
    CheckConstraint(one_of("activity", WorkerActivity), "activity"),
    CheckConstraint("activity = 'busy' OR lane_id IS NULL", "lane_id"),
    CheckConstraint(one_of("state", WorkerState), "state"),
    CheckConstraint("(state = 'unhealthy') = (reason IS NOT NULL)", "reason"),
    CheckConstraint("(reason IS NULL) = (since IS NULL)", "since"),
)

worker_drains = Table(
    "worker_drains",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("target", Text, primary_key=True, comment="name of the host, or of the worker"),
    moment("since", nullable=False, default="now()"),
    Column("drained_by", Text, nullable=False, comment="user@host"),
    Column("reason", Text),
    Column("device", Text, comment="of the worker; null: of a host"),
    CheckConstraint(one_of("kind", DrainKind), "kind"),
)

pools = Table(
    "pools",
    metadata,
    Column("name", Text, primary_key=True),
    Column("models", ARRAY(Text), comment="whose lanes its workers process; null: all"),
    Column("max_workers", Integer, comment="never want more; null: any number"),
    Column("idle_s", Float, nullable=False, server_default=text("300"), comment="how long a worker may idle"),
    Column(
        "target_s",
        Float,
        nullable=False,
        server_default=text("1800"),
        comment="in what time work without a deadline should be done",
    ),
    Column(
        "start_s",
        Float,
        nullable=False,
        server_default=text("600"),
        comment="from the wish for a worker until it renders at full speed",
    ),
    Column(
        "claim_size",
        Integer,
        nullable=False,
        server_default=text("32"),
        comment="jobs that a worker takes at once",
    ),
    CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'", "name"),
    CheckConstraint("models <> '{}'", "models"),
    CheckConstraint("max_workers >= 0", "max_workers"),
    CheckConstraint("idle_s BETWEEN 0 AND 1e7", "idle_s"),
    CheckConstraint("target_s > 0 AND target_s <= 1e7", "target_s"),
    CheckConstraint("start_s BETWEEN 0 AND 1e7", "start_s"),
    CheckConstraint("claim_size > 0", "claim_size"),
)

installations = Table(
    "installations",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("cluster", Text, nullable=False, comment="system_identifier of the PostgreSQL cluster"),
    Column(
        "database", BigInteger, nullable=False, comment="oid; a restored dump has another, and takes a new id"
    ),
    moment("made_at", nullable=False, default="now()"),
    UniqueConstraint("cluster", "database"),
)

outputs = Table(
    "outputs",
    metadata,
    Column("uri", Text, primary_key=True, comment="folder that was written to"),
    Column("marker", Uuid, nullable=False, comment="id in its marker file"),
    moment("made_at", nullable=False, default="now()"),
)
