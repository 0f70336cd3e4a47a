"""What `nightmill grants` prints is enough for each role's commands, and no more than that."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

import migrations
from jobs.db.engine import connect
from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.console.conftest import Typed
from tests.end_to_end.processes import check_exactly_once, foxes, manifest, running, until
from tests.factories import change, look
from tests.other_postgres import postgres_tools


class Roles(NamedTuple):
    """Command lines of three roles on one database."""

    migrator: Typed
    app: Typed
    reader: Typed
    settings: Settings


@pytest.fixture
def roles(settings: Settings, empty_database: str, tmp_path: Path) -> Iterator[Roles]:
    """Roles with names of the test's own on an empty database, as an administrator makes them; then its tables."""
    suffix = secrets.token_hex(4)
    names = [f"{role}_{suffix}" for role in ("migrator", "app", "reader")]
    admin = connect(empty_database)
    own = settings.model_copy(update={"database_url": SecretStr(empty_database)})
    options = [word for name in names for word in (f"--{name.split('_')[0]}", name)]
    printed = Typed(own, tmp_path)("grants", *options)
    assert printed.code == 0, printed.err
    run_sql(admin, printed.out)

    def as_role(name: str) -> Settings:
        url = make_url(empty_database).update_query_dict({"options": f"-c role={name}"})
        return own.model_copy(update={"database_url": SecretStr(url.render_as_string(hide_password=False))})

    migrator = connect(as_role(names[0]).database)
    migrations.upgrade(migrator)
    migrator.dispose()
    try:
        yield Roles(*(Typed(as_role(name), tmp_path) for name in names), as_role(names[1]))
    finally:
        for name in names:
            run_sql(admin, f"DROP OWNED BY {name}; DROP ROLE {name}")
        admin.dispose()


def run_sql(engine: Engine, statements: str) -> None:
    """Run statements by psql."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run(
        [postgres_tools() / "psql", "-q", "-v", "ON_ERROR_STOP=1", url],
        input=statements,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_each_role_can_do_its_work(roles: Roles, tmp_path: Path) -> None:
    path = manifest(tmp_path, foxes(4))
    for command in (
        ("submit", path),
        ("change", "foxes", "--priority", "3"),
        ("pools", "set", "default", "--max-workers", "4"),
        ("webhook", "add", "https://receiver.example/", "--events", "worker.unhealthy"),
        ("webhook", "rotate", "https://receiver.example/"),
    ):
        ended = roles.app(*command)
        assert ended.code == 0, (command, ended.err)
    engine = connect(roles.settings.database)
    with stubbed(tmp_path), running(roles.settings, "scheduler", "worker"):
        until(lambda: [row for row in look(engine, "SELECT state FROM jobs") if row["state"] == "done"][3:])
    check_exactly_once(engine, "foxes", roles.settings.output)
    assert roles.app("check", "foxes").code == 0
    for command in (
        ("feed", "--consumer", "etl"),
        ("retract", "foxes", "--where", "ordinal = 0", "--reason", "bad"),
    ):
        ended = roles.app(*command)
        assert ended.code == 0, (command, ended.err)
    engine.dispose()
    for command in (
        ("status", "foxes"),
        ("feed",),
        ("consumers",),
        ("reconcile", "foxes"),
        ("workers",),
        ("pools",),
        ("webhook", "list"),
    ):
        ended = roles.reader(*command)
        assert ended.code == 0, (command, ended.err)
    for role, command in (
        (roles.reader, ("pause", "foxes")),
        (roles.app, ("migrate", "--down", "--to", "0015", "-y")),
    ):
        ended = role(*command)
        assert ended.code == 1
        assert "the database's user may not do this: " in ended.err
        assert "this should not happen" not in ended.err
    assert roles.app("export", "foxes", "--to", str(tmp_path / "exported")).code == 0
    assert roles.app("archive", "foxes", "--yes").code == 0
    assert roles.app("delete", "foxes", "--files", "--yes").code == 0


OTHERS = (
    "SELECT relowner::regrole::text AS owner, relacl::text AS rights FROM pg_class WHERE relname = 'others'"
)
FORBIDDEN = {
    "reader": (
        "UPDATE batches SET paused_at = now()",
        "INSERT INTO tenants (name) VALUES ('ada')",
        "CREATE TABLE mine (id int)",
        "SELECT secret FROM webhook_secrets",
    ),
    "app": (
        "CREATE TABLE mine (id int)",
        "DROP TABLE jobs",
        "TRUNCATE images",
        "ALTER TABLE jobs ADD mine int",
        "CREATE ROLE mine",
    ),
    "migrator": ("CREATE ROLE mine", "GRANT pg_read_all_stats TO CURRENT_USER"),
}


def test_no_role_can_do_more(roles: Roles) -> None:
    for role, statements in FORBIDDEN.items():
        engine = connect(getattr(roles, role).settings.database)
        for statement in statements:
            with (
                pytest.raises(ProgrammingError, match=r"permission denied|must be owner|must have admin"),
                engine.begin() as own,
            ):
                own.execute(text(statement))
        engine.dispose()


def test_they_may_be_made_after_the_tables_and_again(typed: Typed, engine: Engine) -> None:
    """Tables that another role made become the migrator's; those of other applications stay as they were."""
    suffix = secrets.token_hex(4)
    names = [f"{role}_{suffix}" for role in ("migrator", "app", "reader")]
    printed = typed("grants", *(word for name in names for word in (f"--{name.split('_')[0]}", name))).out
    try:
        change(engine, "CREATE TABLE others (id int)")
        (before,) = look(engine, OTHERS)
        for _ in range(2):
            run_sql(engine, printed)
        owners = look(
            engine,
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'others'",
        )
        assert [row["tableowner"] for row in owners] == [names[0]]
        assert look(engine, OTHERS) == [before]
    finally:
        run_sql(engine, f"REASSIGN OWNED BY {names[0]} TO CURRENT_USER")
        for name in names:
            run_sql(engine, f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--app", "me; DROP TABLE jobs"),
            "--app me; DROP TABLE jobs: small letters, digits and underscores",
        ),
        (("--reader", "Reader"), "--reader Reader: small letters"),
        (("--app", "public"), "--app public: is PostgreSQL's own"),
        (("--migrator", "pg_monitor"), "--migrator pg_monitor: is PostgreSQL's own"),
        (("--reader", "current_user"), "--reader current_user: is PostgreSQL's own"),
        (("--app", "x", "--reader", "x"), "three different roles"),
    ],
)
def test_names_that_sql_would_misread_are_refused(
    typed: Typed, arguments: tuple[str, ...], message: str
) -> None:
    ended = typed("grants", *arguments)
    assert ended.code == 2
    assert message in " ".join(ended.err.split())
