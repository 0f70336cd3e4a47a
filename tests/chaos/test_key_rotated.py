"""The key for S3 is revoked in mid-run and then renewed: nothing is failed or charged for it, the worker says whose."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings
from jobs.storage.open import S3Options
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.proxy import Request, faulty
from tests.end_to_end.processes import foxes, until
from tests.factories import look, states
from tests.s3 import S3Server, shared_credentials
from tests.worker.contexts import submit

OLD, NEW = "AKIAOLDOLDOLDOLDOLD1", "AKIANEWNEWNEWNEWNEW2"
JOBS = 40

pytestmark = pytest.mark.timeout(300)


def reasons(engine: Engine, code: str) -> list[str]:
    """Why workers are unhealthy, where an error of this code is why."""
    return [worker.reason for worker in unhealthy_workers(engine) if code in worker.reason]


def test_a_batch_goes_on_with_the_renewed_key(
    settings: Settings, engine: Engine, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old key is refused while it is in the credentials file; the file changes when the worker has said so."""
    key_file = shared_credentials(tmp_path / "credentials", OLD, monkeypatch)
    with faulty(s3.endpoint_url, share=0, hang_s=0) as proxy:
        reaching = {"s3_endpoint_url": proxy.endpoint_url, "s3_region": "us-east-1"}
        quick = {"batch_size": 4, "claim": 16, "lease_s": 2, "retry_delay_s": 0}
        own = settings.model_copy(update=reaching | quick)
        batch = submit(own, engine, tmp_path, foxes(JOBS), max_attempts="1", output=f"{s3.uri}/rotated")
        with mill(own, tmp_path / "mill", workers=1, step_s=0.005) as running:
            until(lambda: states(engine).get("done", 0) >= 1)

            def refusal(request: Request) -> tuple[int, str] | None:
                return (403, "InvalidAccessKeyId") if request.key_id != NEW else None

            proxy.refusal = refusal
            # An answer to HEAD has no body, and so no code: that of the next upload has.
            (reason,) = until(lambda: reasons(engine, "InvalidAccessKeyId"))
            said = running.log()
            assert states(engine).get("done", 0) < JOBS
            shared_credentials(key_file, NEW)
            assert settle(engine, quiet_s=30), running.log()[-3000:]
            assert running.renders().total() == JOBS, "nothing is drawn twice"
            until(lambda: not unhealthy_workers(engine))
    assert f"can't upload {s3.uri}/rotated/" in reason
    assert "(InvalidAccessKeyId); key …OLD1 from the shared credentials file" in reason
    assert OLD not in said
    facts = check(engine, batch.name, s3=S3Options(s3.endpoint_url, "us-east-1"))
    assert facts.states == {"done": JOBS}
    assert look(engine, "SELECT count(*) AS n FROM attempts") == [{"n": 0}]
