"""What the tests on real processes share."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from jobs.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_process() -> Iterator[None]:
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        yield


@pytest.fixture
def slow(settings: Settings) -> Settings:
    """Settings under which workers take and render few jobs at a time, so that there is time to disturb them."""
    return settings.model_copy(update={"gpu_rows": 1, "claim": 3, "shift_s": 5})
