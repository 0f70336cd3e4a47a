"""Uploads that were cut off are aborted."""

import boto3
from sqlalchemy import Engine, text

from jobs.settings import Settings
from scheduler.sweep import sweep_uploads
from tests.s3 import S3Server


def test_stale_uploads_of_our_batches_are_aborted_and_no_others(
    settings: Settings, engine: Engine, s3: S3Server
) -> None:
    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    # The server dates every upload to 2010.
    others = [
        "elsewhere/a/export/part-00000.parquet",
        "swept/a/backup.tar",
        "swept/c/export/part-00000.parquet",
    ]
    for key in ["swept/a/export/part-00000.parquet", *others]:
        client.create_multipart_upload(Bucket=s3.bucket, Key=key)
    with engine.begin() as connection:
        for name, output in (
            ("x", "s3://nowhere/at-all"),
            ("a", f"{s3.uri}/swept"),
            ("b", "/nowhere"),
        ):
            connection.execute(
                text(
                    "INSERT INTO batches (name, digest, manifest, manifest_sha256, settings, output, seed, safety, "
                    "watermark, format, quality, parameters, max_attempts, priority) VALUES (:name, :name, '', '', "
                    "'{}', :output, 0, 'block', 'off', 'png', 95, true, 3, 0)"
                ),
                {"name": name, "output": output},
            )
    reachable = settings.model_copy(update={"s3_endpoint_url": s3.endpoint_url})
    assert sweep_uploads(reachable, engine) == 1
    assert sweep_uploads(reachable, engine) == 0
    left = client.list_multipart_uploads(Bucket=s3.bucket)["Uploads"]
    assert sorted(upload["Key"] for upload in left) == others
    client.close()
