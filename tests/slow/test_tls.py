"""PostgreSQL and Redis that speak TLS alone, with certificates that are checked."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

import migrations
from jobs.db.engine import connect
from jobs.settings import Settings
from tests import other_postgres
from tests.chaos.stub import stubbed
from tests.command_line import Nightmill
from tests.end_to_end.processes import check_exactly_once, foxes, manifest, running, until
from tests.factories import look
from tests.slow.fetched_programs import debian_redis
from tests.slow.ports import free_port, listens

pytestmark = [pytest.mark.slow_tier]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with `ca.crt`, a `server.crt` that it signed for localhost, its key, and `other.crt` of another CA."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    for authority in ("ca", "other"):
        openssl(
            folder,
            *new,
            "-keyout",
            f"{authority}.key",
            "-out",
            f"{authority}.crt",
            "-subj",
            f"/CN={authority}",
        )
    openssl(
        folder,
        *new,
        *name,
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-keyout",
        "server.key",
        "-out",
        "server.crt",
    )
    return folder


def openssl(folder: Path, *command: str) -> None:
    """Run openssl in the folder."""
    if shutil.which(command[0]) is None:
        pytest.skip("needs openssl")
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def postgres(tmp_path: Path, certificates: Path) -> Iterator[int]:
    """The port of a PostgreSQL that lets in TLS connections only."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("needs a PostgreSQL with TLS, as Debian's; that of the wheel has none")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    data, port = tmp_path / "pg" / "data", free_port()
    other_postgres.make(found[-1], data)
    for name in ("server.crt", "server.key"):
        shutil.copy(certificates / name, data / name)
        shutil.chown(data / name, data.owner(), data.group())
    (data / "server.key").chmod(0o600)
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\nlocal all all trust\n")
    other_postgres.start(found[-1], data, f"-c ssl=on -c listen_addresses=localhost -c port={port}")
    yield port
    other_postgres.stop(found[-1], data)


@pytest.fixture
def redis(tmp_path: Path, certificates: Path) -> Iterator[int]:
    """The port of a Redis that speaks TLS alone; the Valkey of the wheel was built without."""
    program, libraries = debian_redis(tmp_path)
    port = free_port()
    options = {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": str(certificates / "server.crt"),
        "tls-key-file": str(certificates / "server.key"),
        "tls-ca-cert-file": str(certificates / "ca.crt"),
        "tls-auth-clients": "no",
        "save": "",
        "dir": str(tmp_path),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with (tmp_path / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *words], env=os.environ | {"LD_LIBRARY_PATH": libraries}, stdout=log, stderr=log
        )
    until(lambda: listens(port))
    yield port
    process.terminate()
    process.wait(10)


def test_a_batch_over_tls(
    settings: Settings, certificates: Path, postgres: int, redis: int, tmp_path: Path
) -> None:
    own, wrong = (
        settings.model_copy(
            update={
                "database_url": SecretStr(
                    f"postgresql://postgres@localhost:{postgres}/postgres?sslmode=verify-full"
                    f"&sslrootcert={certificates / database_ca}"
                ),
                "broker_url": SecretStr(
                    f"rediss://localhost:{redis}/0?ssl_cert_reqs=required&ssl_ca_certs={certificates / broker_ca}"
                ),
            }
        )
        for database_ca, broker_ca in (("ca.crt", "ca.crt"), ("other.crt", "other.crt"))
    )
    engine = connect(own.database)
    migrations.upgrade(engine)
    nightmill = Nightmill(own, tmp_path)
    assert nightmill("submit", manifest(tmp_path, foxes(6))).code == 0
    with stubbed(tmp_path), running(own, "scheduler", "worker"):
        until(lambda: look(engine, "SELECT FROM jobs WHERE finished_at IS NULL") == [])
    check_exactly_once(engine, "foxes", own.output)
    (connections,) = look(engine, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert connections["ssl"]
    engine.dispose()
    doctor = nightmill("doctor", "--json")
    assert doctor.code == 0, doctor.err
    refused = Nightmill(wrong, tmp_path)("status")
    assert refused.code == 1
    assert "certificate verify failed" in " ".join(refused.err.split())
    assert "Traceback" not in refused.err
    unknown = SecretStr(f"rediss://localhost:{redis}/0")  # by the system's own authorities
    for broker in (wrong.broker_url, unknown):
        looked = Nightmill(own.model_copy(update={"broker_url": broker}), tmp_path)("doctor", "--json")
        assert looked.code == 1
        assert "certificate verify failed" in " ".join((looked.out + looked.err).split())
