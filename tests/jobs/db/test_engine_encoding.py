"""A database that can't hold all text is refused before anything is stored in it."""

import secrets

import pytest
from sqlalchemy import text

from jobs.db.engine import connect
from jobs.errors import ServiceError
from jobs.settings import Settings
from tests.servers import database_url


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_another_encoding_than_utf8_is_refused(servers: Settings, encoding: str) -> None:
    name = f"t_{secrets.token_hex(6)}"
    admin = connect(servers.database)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(
                f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
            )
        )
        other = connect(database_url(servers, name))
        with pytest.raises(
            ServiceError, match=f"{name} has the encoding {encoding}, which can't hold all text"
        ):
            other.connect()
        other.dispose()
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()
