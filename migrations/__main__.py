"""`python -m migrations`: fails unless the migrations give exactly the tables of `jobs.db.schema`."""

import tempfile
from pathlib import Path

from alembic import command

import migrations
from jobs.db.engine import connect
from jobs.services.embedded import services
from jobs.settings import load_settings


def main() -> None:
    """Migrate an empty private database up, down and up again, then compare (`alembic check`)."""
    with tempfile.TemporaryDirectory() as folder:
        private = load_settings(data_dir=Path(folder)).model_copy(
            update={"database_url": None, "broker_url": None}
        )
        with services(private) as configured:
            engine = connect(configured.database)
            for revision in ("head", "base", "head"):
                (migrations.downgrade if revision == "base" else migrations.upgrade)(engine, revision)
            alembic = migrations.config()
            with engine.begin() as connection:
                alembic.attributes["connection"] = connection
                command.check(alembic)
            engine.dispose()


if __name__ == "__main__":
    main()
