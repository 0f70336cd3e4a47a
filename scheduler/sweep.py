"""Upkeep of object stores: what uploads that were cut off left behind."""

from datetime import timedelta

from sqlalchemy import Engine, text

from jobs.database import run
from jobs.objects import S3Options, abort_stale_uploads, open_store
from jobs.settings import Settings

STALE = timedelta(days=1)

_OUTPUTS = text("SELECT DISTINCT output FROM batches WHERE output LIKE 's3://%'")


def sweep_uploads(settings: Settings, engine: Engine) -> int:
    """Abort multipart uploads to S3 that were begun over a day ago; they cost money and are never finished."""
    options = S3Options(settings.s3_endpoint_url, settings.s3_region, read_timeout=10, max_attempts=1)
    outputs = [row.output for row in run(engine, _OUTPUTS, {})]
    return sum(abort_stale_uploads(open_store(output, options), STALE) for output in outputs)
