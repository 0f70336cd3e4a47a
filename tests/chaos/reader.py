"""A consumer of the feed that is killed again and again: a parent that forks readers and ends them by SIGKILL.

A reader appends a line with job and cursor for each image, in one write, and the next one goes on from the last line.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from sqlalchemy import Engine

from jobs.db.engine import connect
from jobs.feed import feed
from tests.factories import look

Read = Callable[[Engine, str], Iterator[tuple[int, str]]]


def by_cursor(engine: Engine, since: str) -> Iterator[tuple[int, str]]:
    """The feed's own way: jobs, each with the cursor after it."""
    for record in feed.read(engine, since, limit=50):
        yield record["job_id"], record["cursor"]


def by_id(engine: Engine, since: str) -> Iterator[tuple[int, str]]:
    """The twin: by the ids of the rows, which are given out before they are committed."""
    after = int(since.partition("-")[2])
    for row in look(
        engine, "SELECT id, job_id FROM images WHERE id > :after ORDER BY id LIMIT 50", after=after
    ):
        yield row["job_id"], f"0-{row['id']}"


def lines(book: Path) -> list[tuple[int, str]]:
    """The jobs that a reader has seen, with the cursors after them."""
    text = book.read_text() if book.exists() else ""
    return [(int(job), cursor) for job, cursor in (line.split() for line in text.splitlines())]


def read_forever(url: str, read: Read, book: Path) -> None:
    """One life of a reader."""
    engine = connect(url)
    written = lines(book)
    since = written[-1][1] if written else feed.START
    with book.open("ab", buffering=0) as stream:
        while True:
            for job, since in read(engine, since):  # noqa: B020 - goes on from the last that came
                stream.write(f"{job} {since}\n".encode())
            time.sleep(0.005)


def main(url: str, book: str, kills: str, seconds: str) -> None:
    """Two readers, the feed's and the twin's; both are killed `kills` times in `seconds`, and when input ends.

    Prints how many of the feed's readers saw something before they were killed.
    """
    chance, mean, sizes = random.Random(11), float(seconds) / int(kills), [0]
    books = {by_cursor: Path(book), by_id: Path(f"{book}.twin")}
    for number in range(int(kills) + 1):
        children = [_fork(url, read, own) for read, own in books.items()]
        if number == int(kills):
            sys.stdin.read()
        else:
            time.sleep(mean * (0.5 + chance.random()))
        for child in children:
            os.kill(child, signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it ended by itself"
        sizes.append(len(lines(Path(book))))
    print(sum(after > before for before, after in pairwise(sizes)))


def _fork(url: str, read: Read, book: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            read_forever(url, read, book)
        finally:
            os._exit(1)
    return child


if __name__ == "__main__":
    main(*sys.argv[1:])
