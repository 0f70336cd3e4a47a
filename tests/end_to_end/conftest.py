"""What the tests on real processes share."""

import pytest

from jobs.settings import Settings


@pytest.fixture
def slow(settings: Settings) -> Settings:
    """Settings under which workers take and render few jobs at a time, so that there is time to disturb them."""
    return settings.model_copy(update={"batch_size": 1, "claim": 3, "time_slice_s": 5})
