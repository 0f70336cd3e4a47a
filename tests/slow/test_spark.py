"""Spark opens exports as Parquet, also in Hive partitions, with the types that the documentation tells."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from scheduler.export.export_options import GivenOptions
from scheduler.export.parse_export_options import parse_export_options
from tests.scheduler.export.datasets import with_index, with_pictures

pytestmark = [pytest.mark.slow_tier]

VERSION = "4.3.0"
READ = """
import json, sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
rows = spark.read.parquet(sys.argv[1])
kept = rows.orderBy("ordinal").select("prompt", "seed", f"`{sys.argv[2]}`", "`meta.score`")
print(json.dumps({"types": dict(rows.dtypes), "rows": [list(row) for row in kept.collect()]}, default=str))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Spark, which needs the machine's Java."""
    if shutil.which("java") is None:
        pytest.skip("no Java")
    folder = tmp_path_factory.mktemp("spark") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", f"pyspark=={VERSION}"], check=True
    )
    return folder / "bin" / "python"


@pytest.mark.parametrize(("partition_by", "label"), [(None, "meta.label"), ("meta.label", "label")])
def test_spark_reads_every_row(
    partition_by: str | None, label: str, engine: Engine, tmp_path: Path, python: Path
) -> None:
    rows = [
        {"prompt": f"fox {n}", "seed": 2**63 + n, "label": "a/b=c" if n % 2 else "owl", "score": n / 4}
        for n in range(25)
    ]
    batch = with_pictures(engine, tmp_path / "output", rows)
    options = parse_export_options(engine, [batch.id], "parquet", GivenOptions(partition_by=partition_by))
    with_index(engine, [batch], "parquet", tmp_path / "export", 10, **dict(options))
    read = [python, "-c", READ, tmp_path / "export", label]
    told = json.loads(
        subprocess.run(read, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    assert told["rows"] == [[row["prompt"], str(row["seed"]), row["label"], row["score"]] for row in rows]
    types = {
        name: told["types"][name] for name in ("image_id", "seed", "created_at", label, "meta.score", "meta")
    }
    assert list(types.values()) == ["bigint", "decimal(20,0)", "timestamp", "string", "double", "string"]
