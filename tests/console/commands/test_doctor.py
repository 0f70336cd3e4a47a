"""Doctor finds all that is amiss, whatever else is: without PostgreSQL, too, the rest is checked."""

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.engine import URL, make_url

import migrations
from tests.command_line import Ended
from tests.console.conftest import Typed
from tests.factories import change


def with_settings(typed: Typed, **settings: object) -> Typed:
    return Typed(typed.settings.model_copy(update=settings), typed.folder)


def with_url(typed: Typed, url: URL) -> Typed:
    return with_settings(typed, database_url=SecretStr(url.render_as_string(hide_password=False)))


def findings(ended: Ended) -> dict[str, Any]:
    return {check["check"]: check["finding"] for check in ended.json if not check["ok"]}


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens and nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_with_nobody_at_the_port_the_rest_is_checked(typed: Typed, closed_port: int) -> None:
    away = with_settings(
        typed, database_url=SecretStr(f"postgresql://me:very-secret@127.0.0.1:{closed_port}/x")
    )
    ended = away("doctor", "--json")
    assert (ended.code, ended.err) == (1, "")
    found = findings(ended)
    assert found.keys() == {"PostgreSQL", "feed", "workers"}
    assert found["PostgreSQL"].startswith("can't reach PostgreSQL at ")
    assert "refused" in found["PostgreSQL"]
    assert "very-secret" not in ended.out
    assert found["feed"] == found["workers"] == "not checked, as PostgreSQL can't be used"
    assert len(ended.json) == 16
    shown = away("doctor")
    assert (shown.code, shown.err) == (1, "")
    assert [line.split()[1] for line in shown.out.splitlines() if line.startswith("!!")] == list(found)
    assert sum(line.startswith("ok") for line in shown.out.splitlines()) == 13


@pytest.mark.usefixtures("engine")
def test_a_role_that_is_not_there_is_named(typed: Typed) -> None:
    url = make_url(typed.settings.database).set(username="nobody_of_this_name")
    found = findings(with_url(typed, url)("doctor", "--json"))
    assert found.keys() == {"PostgreSQL", "feed", "workers"}
    assert 'authentication failed for user "nobody_of_this_name"' in found["PostgreSQL"]


def test_a_role_without_rights_is_told_what_it_may_not(typed: Typed, engine: Engine) -> None:
    role = f"powerless_{secrets.token_hex(4)}"
    url = make_url(typed.settings.database).update_query_dict({"options": f"-c role={role}"})
    change(engine, f"CREATE ROLE {role}")
    try:
        ended = with_url(typed, url)("doctor", "--json")
    finally:
        change(engine, f"DROP ROLE {role}")
    found = findings(ended)
    assert (ended.code, found.keys()) == (1, {"PostgreSQL", "feed", "workers"})
    assert found["PostgreSQL"] == "PostgreSQL: permission denied for table alembic_version"


def test_a_url_of_another_database_is_one_finding(typed: Typed) -> None:
    found = findings(
        with_settings(typed, database_url=SecretStr("mysql://a:very-secret@b/c"))("doctor", "--json")
    )
    assert found["PostgreSQL"] == "NIGHTMILL_DATABASE_URL must be postgresql://…, not mysql://…"


def test_a_private_postgres_that_cannot_start_is_one_finding(typed: Typed, tmp_path: Path) -> None:
    private = with_settings(typed, database_url=None, data_dir=tmp_path / 'with"quote')
    ended = private("doctor", "--json")
    found = findings(ended)
    assert (ended.code, found.keys()) == (1, {"PostgreSQL", "feed", "workers"})
    assert found["PostgreSQL"].startswith("the private services can't start: ")


def test_tables_of_a_later_version_that_this_one_works_with_are_fine(typed: Typed, engine: Engine) -> None:
    change(
        engine, f"COMMENT ON TABLE alembic_version IS 'usable by versions of revision {migrations.head()}'"
    )
    change(engine, "UPDATE alembic_version SET version_num = '9999'")
    ended = typed("doctor", "--json")
    assert (ended.code, findings(ended)) == (0, {})
    (finding,) = (check["finding"] for check in ended.json if check["check"] == "PostgreSQL")
    assert finding.endswith("tables of a later version, with which this one still works")
    change(engine, "COMMENT ON TABLE alembic_version IS 'usable by versions of revision 9999'")
    assert findings(typed("doctor", "--json")).keys() == {"PostgreSQL"}
