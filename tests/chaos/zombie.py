"""A process that claims a job, renews its lease, waits for a line, and completes: to be stopped meanwhile."""

import sys
from contextlib import ExitStack

from jobs.db.engine import connect
from jobs.errors import LeaseLostError
from jobs.job_dataclasses import LaneId
from jobs.queue import transitions
from jobs.storage.open import S3Options, open_store
from tests.chaos.helpers import upload
from tests.chaos.mutants import FINISHES_BY_STATE, mutated
from worker.liveness.lease_keeper import LeaseKeeper

LEASE_S = 0.25


def main(url: str, lane: str, batch: str, folder: str, is_twin: str) -> None:
    engine = connect(url)
    leases = LeaseKeeper(engine, "zombie", "cpu", LEASE_S)
    leases.start()
    (job,) = transitions.claim(engine, LaneId(int(lane)), limit=1, worker="zombie", lease_s=LEASE_S)
    leases.add([job])
    print("claimed", flush=True)
    sys.stdin.readline()
    with ExitStack() as stack:
        if is_twin == "1":
            stack.enter_context(mutated(*FINISHES_BY_STATE))
        try:
            transitions.complete(engine, [upload(open_store(folder, S3Options()), batch, job)])
            print("completed")
        except LeaseLostError:
            print("lost")
    leases.stop()
    engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
