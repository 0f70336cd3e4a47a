"""A book of every change of a job's state, kept by a trigger, and images that name the lease that they were made under.

An image row copies worker and attempt from its job, so it can't tell by itself that another lease wrote it.
"""

from dataclasses import replace

from sqlalchemy import Engine

from jobs.job_dataclasses import Failure, Image, Job
from jobs.states import ErrorKind
from tests.factories import change, failure, look

_KEEP = """
    CREATE TABLE chaos_steps (
        id bigint GENERATED ALWAYS AS IDENTITY, job_id bigint, attempt int, was text, state text, lease uuid);
    CREATE INDEX ON chaos_steps (job_id);
    CREATE FUNCTION chaos_step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO chaos_steps (job_id, attempt, was, state, lease)
        VALUES (NEW.id, NEW.attempt, OLD.state, NEW.state, OLD.lease);
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_step AFTER UPDATE OF state ON jobs FOR EACH ROW EXECUTE FUNCTION chaos_step();
"""


def keep_ledger(engine: Engine) -> None:
    """Write every change of state down from now on, with the lease that the job had until then."""
    change(engine, _KEEP)


def signed(image: Image) -> Image:
    """The image with the lease of its maker where `tests.chaos.invariant` looks for it."""
    return replace(image, versions={"lease": str(image.lease)})


def signed_failure(job: Job, kind: ErrorKind = ErrorKind.MODEL) -> Failure:
    """A failure whose text begins with the lease of its maker."""
    return failure(job, kind, f"lease {job.lease} failed")


def claims(engine: Engine) -> int:
    """How often jobs were claimed, released ones included."""
    found: int = look(engine, "SELECT count(*) AS n FROM chaos_steps WHERE state = 'running'")[0]["n"]
    return found
