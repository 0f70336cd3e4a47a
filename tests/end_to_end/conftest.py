"""What the tests on real processes share."""

from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.console.conftest import Typed


@pytest.fixture
def slow(settings: Settings) -> Settings:
    """Settings under which workers take and render few jobs at a time, so that there is time to disturb them."""
    return settings.model_copy(update={"batch_size": 1, "claim": 3, "time_slice_s": 5})


@pytest.fixture
def typed(settings: Settings, tmp_path: Path) -> Typed:
    """The command line in the test's own process, for commands that only prepare or look."""
    return Typed(settings, tmp_path)
