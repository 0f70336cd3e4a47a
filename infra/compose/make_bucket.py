"""Make the bucket that NIGHTMILL_OUTPUT names, unless it is there. Runs in the server's image."""

import os
import sys
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError

THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def main() -> None:
    """Make it; SystemExit says why it can't be."""
    bucket = urlsplit(os.environ["NIGHTMILL_OUTPUT"]).netloc
    client = boto3.client(
        "s3",
        endpoint_url=os.environ["NIGHTMILL_S3_ENDPOINT_URL"],
        region_name=os.environ["NIGHTMILL_S3_REGION"],
    )
    try:
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE:
            sys.exit(f"{bucket}: {error}")
        print(f"{bucket} is there")
    else:
        print(f"made {bucket}")


if __name__ == "__main__":
    main()
