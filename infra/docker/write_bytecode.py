"""Import what the server's commands import, so that Python writes its bytecode: a read-only container could not.

Bytecode of all packages would take 50 MB; that of what is imported takes 15.
"""

from importlib import import_module

import boto3
from sqlalchemy import create_engine

from console.lazy_commands import MODULES

ALSO = (
    "scheduler.__main__",
    "pyarrow.parquet",
    "rapidfuzz.distance",
    "rapidfuzz.process",
    "zstandard",
    "rich.progress",
)

for name in (*(f"console.commands.{name}" for name in sorted(set(MODULES.values()))), *ALSO):
    import_module(name)
create_engine("postgresql+psycopg://")
boto3.client("s3", region_name="us-east-1")
