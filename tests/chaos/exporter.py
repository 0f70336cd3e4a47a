"""Writers of one export that are killed again and again: a parent that forks them and ends them by SIGKILL."""

import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable

from jobs.batches import actions
from jobs.db.engine import connect
from jobs.exports import shard_claims
from jobs.storage.open import S3Options, open_store
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of
from scheduler.export.run_export import export

WRITERS = 2
SHARD_ROWS = 10
LEASE_S = 0.3
SLOW_S = 0.01
"""How long a writer takes from reading a shard's rows until it names its files."""


def slowly() -> None:
    """Let rows change between the reading and the naming."""
    read = shard_claims.read_shard

    def reading(*given: object) -> object:
        found = read(*given)  # type: ignore[arg-type]
        time.sleep(SLOW_S)
        return found

    shard_claims.read_shard = reading  # type: ignore[assignment]


def write(url: str, batch: str, folder: str) -> None:
    """One life of a writer; ends when every shard is sealed."""
    engine, store = connect(url), open_store(folder, S3Options())
    order = ExportRequest([actions.status(engine, batch)], "jsonl", store)
    export(engine, order, lambda _: store, follow=True, pause=lambda _: time.sleep(0.005))


def main(url: str, batch: str, folder: str, longest_s: str) -> None:
    """Kill the writers again and again until input ends; the last ones live until they are done.

    The first ones live for `longest_s` at most, the others longer and longer: on a slow machine they get to writing,
    too. Prints how often they were killed.
    """
    exporter_of("jsonl").shard_rows = SHARD_ROWS
    shard_claims.LEASE_S = LEASE_S
    slowly()
    chance, kills = random.Random(5), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        children = _lives(url, batch, folder)
        time.sleep(float(longest_s) * chance.random() * (1 + kills / 20))
        for child in children:
            os.kill(child, signal.SIGKILL)
        ends = _ends(children)
        assert set(ends) <= {-signal.SIGKILL, 0}, "none of them fails"
        kills += len(ends)
    assert _ends(_lives(url, batch, folder)) == [0] * WRITERS, "the last ones finish it"
    print(kills)


def _lives(url: str, batch: str, folder: str) -> list[int]:
    return [_fork(lambda: write(url, batch, folder)) for _ in range(WRITERS)]


def _ends(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _fork(life: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            life()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


if __name__ == "__main__":
    main(*sys.argv[1:])
