"""Keep a table of finished images in a DuckDB file: `python duckdb_consumer.py images.duckdb`."""

import subprocess
import sys

import duckdb
import pyarrow as pa

ROWS_AT_ONCE = 10_000

TABLES = """
    CREATE TABLE IF NOT EXISTS images (
        image_id BIGINT PRIMARY KEY, batch_id BIGINT, batch VARCHAR, ordinal BIGINT, "index" INTEGER, row_id VARCHAR,
        uri VARCHAR, sha256 VARCHAR, prompt VARCHAR, seed UBIGINT, meta VARCHAR);
    CREATE TABLE IF NOT EXISTS feed (cursor VARCHAR);
"""


def read(since: str, rows: int) -> pa.Table:
    """Read the next part of the feed."""
    command = ["nightmill", "feed", "--events", "image,retracted,deleted", "--format", "arrow"]
    ended = subprocess.run(
        [*command, "--since", since, "--limit", str(rows)], stdout=subprocess.PIPE, check=True
    )
    return pa.ipc.open_stream(ended.stdout).read_all()


def copy_once(connection: duckdb.DuckDBPyConnection, rows: int) -> int:
    """Copy the next part of the feed, with the cursor after it in the same transaction; returns the number of lines."""
    (found,) = connection.execute("SELECT coalesce(max(cursor), '0-0') FROM feed").fetchall()
    part = read(found[0], rows)
    if not part.num_rows:
        return 0
    connection.register("part", part)
    connection.begin()
    connection.execute("""
        INSERT INTO images
        SELECT image_id, batch_id, batch, ordinal, "index", row_id, uri, sha256, prompt, seed, meta
        FROM part WHERE event = 'image'
    """)
    connection.execute(
        "DELETE FROM images WHERE image_id IN (SELECT image_id FROM part WHERE event = 'retracted')"
    )
    connection.execute(
        "DELETE FROM images WHERE batch_id IN (SELECT batch_id FROM part WHERE event = 'deleted')"
    )
    connection.execute("DELETE FROM feed")
    connection.execute("INSERT INTO feed VALUES (?)", [part["cursor"][-1].as_py()])
    connection.commit()
    return len(part)


def main(path: str, rows: int = ROWS_AT_ONCE) -> None:
    """Copy all that there is."""
    connection = duckdb.connect(path)
    connection.execute(TABLES)
    while copy_once(connection, rows):
        pass


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
