"""Uploads that were cut off are aborted: of our batches, and no others."""

import boto3
import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from jobs.storage.open import S3Options
from scheduler.unfinished_and_late_uploads import sweep_uploads
from tests.factories import change, make_batch, own
from tests.ownership import give_to_another
from tests.s3 import S3Server

PART = "export/part-00000.parquet"


def test_stale_uploads_of_our_batches_are_aborted_and_no_others(
    settings: Settings, engine: Engine, s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    options, output = S3Options(s3.endpoint_url, "us-east-1"), f"{s3.uri}/swept"
    for name in ("elsewhere", "ours", "theirs", "unclaimed"):
        batch = make_batch(engine, 1, name=name, output=output)
        if name in ("ours", "theirs"):
            store = own(engine, batch, output, options)
    give_to_another(store, "theirs")
    change(engine, "UPDATE batches SET output = 's3://nowhere/at-all' WHERE name = 'elsewhere'")
    # The server dates every upload to 2010.
    others = [
        f"elsewhere/ours/{PART}",
        "swept/ours/backup.tar",
        f"swept/theirs/{PART}",
        f"swept/unclaimed/{PART}",
        f"swept/unknown/{PART}",
    ]
    for key in [f"swept/ours/{PART}", *others]:
        client.create_multipart_upload(Bucket=s3.bucket, Key=key)
    reachable = settings.model_copy(update={"s3_endpoint_url": s3.endpoint_url})
    assert sweep_uploads(reachable, engine) == 1
    assert sweep_uploads(reachable, engine) == 0
    left = client.list_multipart_uploads(Bucket=s3.bucket)["Uploads"]
    assert (
        sorted(upload["Key"] for upload in left if upload["Key"].startswith(("swept/", "elsewhere/")))
        == others
    )
    assert "stale uploads to s3://nowhere/at-all are left" in caplog.text
    client.close()
