"""A content-safety service that goes wrong in every way: no image leaves unrated, and no job pays for the service."""

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.scale import scaled
from tests.content_safety_server import CATEGORIES, KEY, Request, Service, content_safety_server
from tests.end_to_end.processes import foxes, truth, until
from tests.factories import look
from tests.worker.contexts import jobs_of, submit

SEED, SEEDS = 11, scaled(1, 20)
CHECKERS = "content-safety,content-safety-prompts"
FAULTY_SHARE = 0.25
AWAY_S = 4  # longer than a request is repeated
JOBS = 24

pytestmark = pytest.mark.timeout(scaled(300, 600))


class Unreliable:
    """Answers rightly, or in one of many wrong ways. Prompts with "unsafe" are rated 6."""

    def __init__(self, service: Service, seed: int) -> None:
        self.rated: set[str] = set()
        """Prompts that were rated."""
        self.images = 0
        """How many ratings of images were sent."""
        self._chance, self._lock = random.Random(seed), threading.Lock()
        self._plain = service.answer
        service.rate = lambda request: {"Hate": 6} if "unsafe" in str(request.content) else {}
        service.answer = self.answer  # type: ignore[method-assign]

    def answer(self, request: Request) -> tuple[int, bytes, dict[str, str]]:
        """The answer to one request."""
        with self._lock:
            fault = self._chance.random() < FAULTY_SHARE
            wrong = self._chance.choice(self._faults())
        if fault:
            return wrong
        with self._lock:
            if request.kind == "text":
                self.rated.add(str(request.content))
            self.images += request.kind == "image"
        return self._plain(request)

    def _faults(self) -> list[tuple[int, bytes, dict[str, str]]]:
        whole = [{"category": name, "severity": 0} for name in CATEGORIES]
        few = json.dumps({"categoriesAnalysis": whole[1:]}).encode()
        unusable = json.dumps({"categoriesAnalysis": [each | {"severity": None} for each in whole]}).encode()
        return [
            (500, b"", {}),
            (503, b'{"error": {"code": "Busy", "message": "later"}}', {}),
            (429, b"", {"Retry-After": "0.1"}),
            (200, b"", {}),
            (200, b"<html>a proxy's page</html>", {}),
            (200, few, {}),
            (200, unusable, {}),
        ]


@pytest.fixture
def service() -> Iterator[Service]:
    with content_safety_server() as server:
        yield server


@pytest.fixture
def quick(settings: Settings, service: Service) -> Settings:
    """Small claims and a worker that knows the service."""
    changes = {"batch_size": 4, "claim": 8, "lease_s": 2, "shutdown_grace_s": 1, "retry_delay_s": 0}
    return settings.model_copy(
        update=changes | {"content_safety_url": service.url, "content_safety_key": SecretStr(KEY)}
    )


def go_away(service: Service, unreliable: Unreliable) -> None:
    """Close all connections for a while, once some images are rated."""
    until(lambda: unreliable.images >= JOBS // 8)
    service.is_down = True
    time.sleep(AWAY_S)
    service.is_down = False


def check_rated(engine: Engine, name: str, service: Unreliable) -> None:
    """AssertionError names images that left without a severity for each category, and prompts that weren't rated."""
    wrong = []
    for row in truth(engine, name).images:
        labels = (row["safety_scores"] or {}).get("labels", {})
        for checker in CHECKERS.split(","):
            if set(labels.get(checker, {})) != set(CATEGORIES):
                wrong.append(f"{row['key']} has no severities of {checker}")
        if row["prompt"] not in service.rated or "unsafe" in row["prompt"]:
            wrong.append(f"{row['key']}: its prompt {row['prompt']!r} wasn't found safe")
    if service.images < len(truth(engine, name).images):
        wrong.append(f"only {service.images} images were rated")
    assert not wrong, f"{len(wrong)} things are wrong:\n" + "\n".join(wrong[:20])


@pytest.mark.parametrize("seed", range(SEED, SEED + SEEDS))
def test_no_image_leaves_unrated(
    quick: Settings, engine: Engine, tmp_path: Path, service: Service, seed: int
) -> None:
    unreliable = Unreliable(service, seed)
    rows = foxes(JOBS) + [{"prompt": f"unsafe {number}", "steps": 2} for number in range(4)]
    batch = submit(quick, engine, tmp_path, rows, safety_checkers=CHECKERS)
    with mill(quick, tmp_path / "mill") as running:
        go_away(service, unreliable)
        assert settle(engine, quiet_s=60), running.log()[-3000:]
    check(engine, batch.name)
    check_rated(engine, batch.name, unreliable)
    ended = [(job["state"], job["attempt"]) for job in jobs_of(engine, batch)]
    assert ended == [("done", 1)] * JOBS + [("blocked", 1)] * 4, "no attempt was charged for the service"
    told = look(engine, "SELECT error_text FROM jobs WHERE state = 'blocked'")
    assert {job["error_text"] for job in told} == {"safety checker: content-safety-prompts:Hate at 6"}


def test_a_stage_that_lets_images_pass_when_the_service_fails(
    quick: Settings, engine: Engine, tmp_path: Path, service: Service
) -> None:
    unreliable = Unreliable(service, SEED)
    batch = submit(quick, engine, tmp_path, foxes(JOBS), safety_checkers=CHECKERS)
    with mill(quick, tmp_path / "mill", workers=1, twin="unrated") as running:
        go_away(service, unreliable)
        assert settle(engine, quiet_s=60), running.log()[-3000:]
    check(engine, batch.name)
    with pytest.raises(AssertionError, match="has no severities of content-safety"):
        check_rated(engine, batch.name, unreliable)
