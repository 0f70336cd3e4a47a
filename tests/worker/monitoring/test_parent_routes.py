"""What keeps a worker from its work, as its parent process tells it."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.factories import change
from worker.monitoring.parent_routes import ParentMonitoring


@pytest.fixture
def monitoring(settings: Settings) -> Iterator[ParentMonitoring]:
    monitoring = ParentMonitoring(settings, 2)
    yield monitoring
    monitoring._engine.dispose()


def test_an_error_of_postgres_is_not_taken_for_silence(monitoring: ParentMonitoring, engine: Engine) -> None:
    change(engine, "ALTER TABLE workers RENAME TO workers_elsewhere")
    assert monitoring._problems() == ["a query of PostgreSQL failed; the log says why"]
    assert monitoring._idleness() == []


@pytest.mark.usefixtures("engine")
def test_children_that_have_not_reported_are_counted(monitoring: ParentMonitoring) -> None:
    assert monitoring._problems() == ["0 of 2 child processes are up"]
