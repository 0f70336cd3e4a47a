"""`nightmill grants`: SQL that gives each kind of process a PostgreSQL role with no more rights than it needs."""

import re
from typing import Annotated

import typer

from console.terminal.output import print_line
from jobs.errors import UsageError

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def grants(
    migrator: Annotated[
        str, typer.Option(metavar="ROLE", help="owns the tables; for `nightmill migrate` alone")
    ] = "nightmill_migrator",
    app: Annotated[
        str, typer.Option(metavar="ROLE", help="for workers, schedulers and who submits or changes batches")
    ] = "nightmill_app",
    reader: Annotated[
        str, typer.Option(metavar="ROLE", help="for who reads: status, feed, export, evaluate")
    ] = "nightmill_reader",
    schema: Annotated[str, typer.Option(metavar="SCHEMA", help="where the tables are")] = "public",
) -> None:
    """Print SQL for PostgreSQL roles with least rights; a superuser runs it, before or after the first `migrate`."""
    roles = {"--migrator": migrator, "--app": app, "--reader": reader}
    for option, name in (*roles.items(), ("--schema", schema)):
        if not _NAME.fullmatch(name):
            raise UsageError(f"{option} {name}: small letters, digits and underscores, a letter first")
    if len(set(roles.values())) < len(roles):
        raise UsageError("--migrator, --app and --reader: three different roles")
    print_line(sql(migrator, app, reader, schema))


def sql(migrator: str, app: str, reader: str, schema: str) -> str:
    """Return the statements; they may be run again, such as after an upgrade. The names need no quotes."""
    return f"""\
-- For psql, as a superuser (or the database's owner with CREATEROLE), connected to nightmill's database.
-- Then give the roles passwords or certificates, as in: \\password {app}
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['{migrator}', '{app}', '{reader}'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', name);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
    END LOOP;
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END $$;
REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA {schema} TO {migrator};
GRANT USAGE ON SCHEMA {schema} TO {app}, {reader};

-- Tables and functions that are there already: the migrator's from now on.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('r', 'p')
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO {migrator}', found.name);
    END LOOP;
    FOR found IN SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = '{schema}'::regnamespace AND proname LIKE 'nightmill\\_%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO {migrator}', found.name);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {app};
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader};
-- The same for what migrations will make.
ALTER DEFAULT PRIVILEGES FOR ROLE {migrator} IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {migrator} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {reader};

-- So that the scheduler sees other roles' old transactions, which hold back the feed (nightmill_feed_lag_seconds).
GRANT pg_read_all_stats TO {app};
"""  # noqa: S608 - the names are checked
