"""A database whose clock is set by hand: the queue's own statements run at simulated times.

In the simulation's connections the function `now()` is found in a schema that is searched before PostgreSQL's own.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, event, text

from jobs.db.engine import run

_CREATE = """
    CREATE SCHEMA simulation;
    CREATE TABLE simulation.clock (now timestamptz);
    INSERT INTO simulation.clock VALUES (pg_catalog.now());
    CREATE FUNCTION simulation.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now FROM simulation.clock'
"""
_SET = text("UPDATE simulation.clock SET now = :now RETURNING now")


class Clock:
    """The clock of all connections that `engine` opens from now on."""

    def __init__(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(_CREATE)
        engine.dispose()
        event.listen(engine, "connect", _search_simulation_first)
        self._engine = engine

    def set(self, now: datetime) -> None:
        """Set the time that `now()` gives."""
        run(self._engine, _SET, {"now": now})


def _search_simulation_first(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET search_path = simulation, pg_catalog, public")
    connection.commit()
