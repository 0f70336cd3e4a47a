"""Keep a table of finished images in a PostgreSQL database: `python postgres_consumer.py postgresql://…`."""

import json
import subprocess
import sys
from typing import Any

import psycopg
from psycopg.types.json import Json

ROWS_AT_ONCE = 5_000

TABLES = """
    CREATE SCHEMA IF NOT EXISTS etl;
    CREATE TABLE IF NOT EXISTS etl.images (
        image_id bigint PRIMARY KEY, batch_id bigint NOT NULL, batch text NOT NULL, ordinal bigint NOT NULL,
        "index" integer NOT NULL, row_id text, uri text NOT NULL, sha256 text NOT NULL, prompt text NOT NULL,
        seed numeric(20) NOT NULL, meta json NOT NULL, created_at timestamptz NOT NULL);
    CREATE TABLE IF NOT EXISTS etl.feed (id boolean PRIMARY KEY DEFAULT true CHECK (id), cursor text NOT NULL);
    INSERT INTO etl.feed (cursor) VALUES ('0-0') ON CONFLICT DO NOTHING;
"""
ADD = """
    INSERT INTO etl.images VALUES (%(image_id)s, %(batch_id)s, %(batch)s, %(ordinal)s, %(index)s, %(row_id)s, %(uri)s,
        %(sha256)s, %(prompt)s, %(seed)s, %(meta)s, %(created_at)s)
"""


def read(since: str, rows: int) -> list[dict[str, Any]]:
    """Read the next part of the feed."""
    command = ["nightmill", "feed", "--events", "image,retracted,deleted", "--since", since]
    ended = subprocess.run([*command, "--limit", str(rows)], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in ended.stdout.split(b"\n") if line]


def copy_once(connection: psycopg.Connection[Any], rows: int) -> int:
    """Copy the next part of the feed, with the cursor after it in the same transaction; returns the number of lines."""
    # Of two copies of this program the second one waits. No row is locked: a transaction that has written would hold
    # back the feed, if both databases are on one server.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('etl.feed'))")
    found = connection.execute("SELECT cursor FROM etl.feed").fetchall()
    lines = read(found[0][0], rows)
    for line in lines:
        if line["event"] == "image":
            connection.execute(ADD, line | {"meta": Json(line["meta"])})
        elif line["event"] == "retracted":
            connection.execute("DELETE FROM etl.images WHERE image_id = %s", [line["image_id"]])
        else:
            connection.execute("DELETE FROM etl.images WHERE batch_id = %s", [line["batch_id"]])
    if lines:
        connection.execute("UPDATE etl.feed SET cursor = %s", [lines[-1]["cursor"]])
    connection.commit()
    return len(lines)


def main(url: str, rows: int = ROWS_AT_ONCE) -> None:
    """Copy all that there is."""
    connection = psycopg.connect(url)
    connection.execute(TABLES)
    connection.commit()
    while copy_once(connection, rows):
        pass


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
