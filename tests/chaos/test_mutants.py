"""The machine that tries any order of events sees each of these changes to the statements of the queue."""

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from jobs.errors import LeaseLostError
from tests.chaos.mutants import FINISHES_BY_STATE, Mutant, mutated
from tests.chaos.scale import scaled
from tests.chaos.walk import walk

WALKS = 60

_LEASE = "jobs.lease = given.lease"
_UNCOUNTED = "SELECT batch_id, lane_id, state, count(*) FROM affected"
_MOST = "least(max_attempts, most_attempts)"
_DUE = "not_before <= (SELECT due FROM open)"
_KEPT = "outcome, error_kind, error_text FROM affected"

MUTANTS = (
    *FINISHES_BY_STATE,
    Mutant("complete by id", "_COMPLETE", f"AND {_LEASE}", ""),
    Mutant("complete without an image row", "_COMPLETE", "l.id = j.lane_id", "l.id = j.lane_id AND false"),
    Mutant("complete that isn't counted", "_COMPLETE", _UNCOUNTED, f"{_UNCOUNTED} WHERE false"),
    Mutant("fail beyond max_attempts", "_FAIL", _MOST, "most_attempts"),
    Mutant("fail an attempt too early", "_FAIL", "attempt < least(", "attempt + 1 < least("),
    Mutant("fail that retries what can't be mended", "_FAIL", _MOST, "max_attempts"),
    Mutant("fail that forgets the attempt", "_FAIL", _KEPT, f"{_KEPT} WHERE false"),
    Mutant("extend by id", "_EXTEND", _LEASE, "jobs.state = 'running'"),
    Mutant("extend that doesn't", "_EXTEND", "lease_until = now() +", "lease_until = lease_until + 0 *"),
    Mutant("release by id", "_RELEASE", _LEASE, "jobs.state = 'running'"),
    Mutant("release that charges", "_RELEASE", "attempt = attempt - 1", "attempt = attempt"),
    Mutant("rescue of leases that live", "_RESCUE", "AND lease_until < now()", ""),
    Mutant("rescue beyond max_attempts", "_RESCUE", "attempt < max_attempts", "true"),
    Mutant("rescue that forgets the attempt", "_RESCUE", _KEPT, f"{_KEPT} WHERE false"),
    Mutant("cancel that isn't counted", "_CANCEL", _UNCOUNTED, f"{_UNCOUNTED} WHERE false"),
    Mutant("cancel of what is queued alone", "_CANCEL", "IN ('queued', 'running')", "= 'queued'"),
    Mutant("claim that isn't charged", "_CLAIMS", "attempt = attempt + 1", "attempt = greatest(attempt, 1)"),
    Mutant("claim of a paused batch", "_CLAIMS", "paused_at IS NULL AND", ""),
    Mutant("claim before its time", "_CLAIMS", _DUE, "not_before > CAST('-infinity' AS timestamptz)"),
    Mutant("claim of what runs", "_CLAIMS", "state = 'queued'", "state IN ('queued', 'running')"),
    Mutant("retry of what is done", "_RETRY", "AND state IN ('failed'", "OR state IN ('done'"),
    Mutant("retry that keeps the charges", "_RETRY", "attempt = 0", "attempt = attempt"),
    Mutant("retry of any error", "_RETRY", "error_kind = :kind", "true"),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_machine_sees(engine: Engine, mutant: Mutant) -> None:
    with mutated(mutant), pytest.raises((AssertionError, LeaseLostError, IntegrityError)):
        walks(engine, WALKS)


def test_the_same_walks_go_well_without_a_change(engine: Engine) -> None:
    walks(engine, scaled(5, WALKS))


def walks(engine: Engine, count: int) -> None:
    for seed in range(count):
        walk(engine, seed)
