"""What the tests of the scheduler share."""

from collections.abc import Iterator

import pytest

from jobs.settings import Settings
from tests.scheduler.broker import Broker


@pytest.fixture
def broker(settings: Settings) -> Iterator[Broker]:
    broker = Broker(settings)
    yield broker
    broker.redis.close()
