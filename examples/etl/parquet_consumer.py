"""Keep a folder of Parquet files of finished images: `python parquet_consumer.py FOLDER`.

A file holds a part of the feed, and its name the number of the part and the cursor after it: rows and cursor appear at
once, when the file gets its name. Nothing is changed afterwards. What counts at present, in DuckDB's SQL:

    SELECT * FROM 'FOLDER/*.parquet' AS f WHERE event = 'image'
      AND NOT EXISTS (FROM 'FOLDER/*.parquet' AS r WHERE r.event = 'retracted' AND r.image_id = f.image_id)
      AND NOT EXISTS (FROM 'FOLDER/*.parquet' AS d WHERE d.event = 'deleted' AND d.batch_id = f.batch_id)
"""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

ROWS_AT_ONCE = 100_000


def copy_once(folder: Path, rows: int) -> int:
    """Copy the next part of the feed; returns the number of lines."""
    parts = sorted(folder.glob("part-*.parquet"))
    since = parts[-1].stem.split("_")[1] if parts else "0-0"
    temporary = folder / f".{os.getpid()}.part"
    command = ["nightmill", "feed", "--events", "image,retracted,deleted", "--since", since]
    output = ["--format", "parquet", "--out", str(temporary)]
    subprocess.run([*command, "--limit", str(rows), *output], check=True)
    cursors = pq.read_table(temporary, columns=["cursor"])["cursor"]
    if not len(cursors):
        temporary.unlink()
        return 0
    temporary.replace(folder / f"part-{len(parts):08d}_{cursors[-1]}.parquet")
    return len(cursors)


def main(folder: str, rows: int = ROWS_AT_ONCE) -> None:
    """Copy all that there is."""
    Path(folder).mkdir(exist_ok=True)
    for left_over in Path(folder).glob(".*.part"):
        left_over.unlink()
    while copy_once(Path(folder), rows):
        pass


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
