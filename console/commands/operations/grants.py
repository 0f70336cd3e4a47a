"""`nightmill grants`: SQL that gives each kind of process a PostgreSQL role with no more rights than it needs."""

import re
from typing import Annotated

import typer

from console.terminal.output import print_line
from jobs.db.schema import metadata
from jobs.errors import UsageError
from scheduler.export.tables.catalog_names import SCHEMA

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_RESERVED = re.compile(
    r"pg_.*|postgres|public|none|current_role|current_user|session_user|user|all|select|default"
)


def grants(
    migrator: Annotated[
        str, typer.Option(metavar="ROLE", help="owns the tables; for `nightmill migrate` alone")
    ] = "nightmill_migrator",
    app: Annotated[
        str,
        typer.Option(
            metavar="ROLE", help="for workers, schedulers, and who submits, changes or exports batches"
        ),
    ] = "nightmill_app",
    reader: Annotated[
        str, typer.Option(metavar="ROLE", help="for who reads: status, feed, evaluate")
    ] = "nightmill_reader",
) -> None:
    """Print SQL for psql that makes PostgreSQL roles with least rights, before or after the first `migrate`."""
    roles = {"--migrator": migrator, "--app": app, "--reader": reader}
    for option, name in roles.items():
        if not _NAME.fullmatch(name):
            raise UsageError(f"{option} {name}: small letters, digits and underscores, a letter first")
        if _RESERVED.fullmatch(name):
            raise UsageError(f"{option} {name}: is PostgreSQL's own; name another role")
    if len(set(roles.values())) < len(roles):
        raise UsageError("--migrator, --app and --reader: three different roles")
    print_line(sql(migrator, app, reader))


def sql(migrator: str, app: str, reader: str) -> str:
    """Return a script for psql, which may be run again; it touches nightmill's own tables and function alone."""
    tables = ", ".join(f"'{name}'" for name in sorted([*metadata.tables, "alembic_version"]))
    return f"""\
-- For psql, as a superuser, connected to nightmill's database. It touches no other tables than nightmill's.
-- Afterwards give the roles passwords or certificates, as in: \\password {app}
\\set ON_ERROR_STOP on
BEGIN;
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
END $$;
GRANT USAGE, CREATE ON SCHEMA public TO "{migrator}";
GRANT USAGE ON SCHEMA public TO "{app}", "{reader}";

-- What is there already: the migrator's from now on.
DO $$
DECLARE
    found text;
BEGIN
    FOREACH found IN ARRAY ARRAY[{tables}] LOOP
        IF to_regclass('public.' || found) IS NOT NULL THEN
            EXECUTE format('ALTER TABLE public.%I OWNER TO "{migrator}"', found);
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.%I TO "{app}"', found);
            IF found <> 'webhook_secrets' THEN
                EXECUTE format('GRANT SELECT ON public.%I TO "{reader}"', found);
            END IF;
        END IF;
    END LOOP;
    IF to_regclass('public.images_id_seq') IS NOT NULL THEN  -- ids of events are of it, too
        GRANT USAGE ON SEQUENCE public.images_id_seq TO "{app}";
    END IF;
    IF to_regprocedure('public.nightmill_wanted_workers(text, timestamptz)') IS NOT NULL THEN
        ALTER FUNCTION public.nightmill_wanted_workers(text, timestamptz) OWNER TO "{migrator}";
    END IF;
END $$;

-- What migrations will make.
ALTER DEFAULT PRIVILEGES FOR ROLE "{migrator}" IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "{app}";
ALTER DEFAULT PRIVILEGES FOR ROLE "{migrator}" IN SCHEMA public GRANT USAGE ON SEQUENCES TO "{app}";
ALTER DEFAULT PRIVILEGES FOR ROLE "{migrator}" IN SCHEMA public GRANT SELECT ON TABLES TO "{reader}";

-- The catalog of exports as Iceberg tables, which pyiceberg makes tables in.
CREATE SCHEMA IF NOT EXISTS {SCHEMA} AUTHORIZATION "{app}";
GRANT USAGE ON SCHEMA {SCHEMA} TO "{reader}";
ALTER DEFAULT PRIVILEGES FOR ROLE "{app}" IN SCHEMA {SCHEMA} GRANT SELECT ON TABLES TO "{reader}";

-- So that the scheduler sees other roles' old transactions, which hold back the feed (nightmill_feed_lag_seconds).
GRANT pg_read_all_stats TO "{app}";
COMMIT;
"""  # noqa: S608 - the names are checked
