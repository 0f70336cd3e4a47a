"""Runs a consumer of `examples/etl`, and kills it by SIGKILL around its n-th commit: `PROGRAM MOMENT N ARGUMENT…`."""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psycopg

MOMENTS = ("before", "after", "never")
FOLDER = Path(__file__).parents[2] / "examples" / "etl"


class Killing:
    """A connection whose n-th commit is the end: before it is done, or right after."""

    def __init__(self, connection: Any, commit: Callable[[Callable[[], Any]], None]) -> None:
        self._connection, self._commit = connection, commit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None:
        """Commit as the connection does, unless this is the one."""
        self._commit(self._connection.commit)


def main(program: str, moment: str, number: str, *arguments: str) -> None:
    """Run the consumer in this process."""
    left = int(number)

    def done(action: Callable[[], Any]) -> None:
        nonlocal left
        left -= 1
        if moment == "before" and not left:
            os.kill(os.getpid(), signal.SIGKILL)
        action()
        if moment == "after" and not left:
            os.kill(os.getpid(), signal.SIGKILL)

    duck, postgres, replace = duckdb.connect, psycopg.connect, os.replace
    duckdb.connect = lambda *given: Killing(duck(*given), done)  # type: ignore[assignment]
    psycopg.connect = lambda *given: Killing(postgres(*given), done)  # type: ignore[assignment]
    os.replace = lambda *given: done(lambda: replace(*given))  # type: ignore[assignment]
    sys.argv = [program, *arguments]
    runpy.run_path(str(FOLDER / program), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
