"""infra/compose/compose.yaml: valid, hardened, health-gated, without a secret in it."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.infra.containers.compose import FILE, FOLDER, document, services
from tests.paths import ROOT

SERVICES = services()
NAMES = sorted(SERVICES)
PUBLISHED = {"s3", "models", "prometheus", "grafana"}
OURS = {name for name in NAMES if SERVICES[name].is_ours}


def test_it_is_a_compose_file() -> None:
    """By `docker compose config` where that works, else by the schema of the Compose specification."""
    compose = ["docker", "compose", "--file", str(FILE)]
    if shutil.which("docker") and not _run(*compose, "version").returncode:
        ended = _run(*compose, "--profile", "*", "config", "--quiet")
    else:
        program = Path(sys.executable).with_name("check-jsonschema")
        ended = _run(str(program), "--builtin-schema", "vendor.compose-spec", str(FILE))
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_schema_would_find_a_misspelt_key(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("stop_grace_period", "stop_grace"))
    program = Path(sys.executable).with_name("check-jsonschema")
    ended = _run(str(program), "--builtin-schema", "vendor.compose-spec", str(wrong))
    assert ended.returncode == 1
    assert "stop_grace" in ended.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_container_may_do_what_it_must_and_no_more(name: str) -> None:
    given = SERVICES[name].given
    assert given["read_only"]
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in given or name == "postgres"
    assert not {"privileged", "pid", "ipc", "network_mode"} & set(given)
    assert "user" not in given or name in ("valkey", "s3")


@pytest.mark.parametrize("name", NAMES)
def test_only_what_must_be_reached_is_published_and_to_this_host_alone(name: str) -> None:
    given = SERVICES[name].given
    assert "backend" in given["networks"]
    assert ("published" in given["networks"]) == (name in PUBLISHED)
    assert all(port.startswith("127.0.0.1:") for port in given.get("ports", ()))
    assert document()["networks"]["backend"] == {"internal": True}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_waited_for_can_come(name: str) -> None:
    for other, condition in SERVICES[name].needs.items():
        if condition == "service_healthy":
            assert SERVICES[other].healthcheck, other
        else:
            assert (condition, SERVICES[other].is_one_shot) == ("service_completed_successfully", True)
        assert set(SERVICES[other].given.get("profiles", ())) <= set(SERVICES[name].given.get("profiles", ()))
    assert SERVICES[name].is_one_shot or SERVICES[name].healthcheck


@pytest.mark.parametrize("name", sorted(OURS))
def test_variables_are_settings_and_the_grace_is_ten_seconds_more_than_theirs(name: str) -> None:
    service = SERVICES[name]
    ours = {key for key in service.environment if key.startswith("NIGHTMILL_")}
    assert ours <= {f"NIGHTMILL_{field.upper()}" for field in Settings.model_fields}
    if not service.is_one_shot:
        assert service.grace_s == float(service.environment["NIGHTMILL_SHUTDOWN_GRACE_S"]) + 10


def test_images_are_of_this_version_or_pinned() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, service in SERVICES.items():
        tag = str(service.given["image"]).rpartition(":")[2]
        assert re.match(r"v?\d", tag), name
        assert name not in OURS or tag.removesuffix("-cpu") == version
    assert "gpu" in str(SERVICES["worker-gpu"].given["deploy"])
    assert SERVICES["worker-gpu"].given["build"]["args"] == {"TORCH": "cuda"}


def test_every_mount_of_the_repository_is_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.given.get("volumes", ())]
    named = [mount.split(":")[0] for mount in mounts]
    inside = [path for path in named if path.startswith((".", "/")) and not path.startswith("./exports")]
    made = {"./manifests"}
    missing = [path for path in inside if path not in made and not (FOLDER / path).exists()]
    assert missing == []
    assert {path for path in named if "/" not in path} <= set(document()["volumes"])


def test_secrets_are_files_that_the_script_writes(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = ["sh", str(FOLDER / "make_secrets.sh"), str(folder)]
    assert _run(*script).returncode == 0
    wanted = {path["file"].removeprefix("./secrets/") for path in document()["secrets"].values()}
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(written) == wanted == set(document()["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    password = written["postgres_password"].strip()
    assert len(password) == 48
    assert f":{password}@postgres:5432/" in written["nightmill_database_url"]

    assert "nothing was changed" in _run(*script).stderr
    assert {path.name: path.read_text() for path in folder.iterdir()} == written
    _run(*script[:2], str(tmp_path / "other"))
    assert (tmp_path / "other" / "postgres_password").read_text() != written["postgres_password"]
    assert _run("git", "check-ignore", str(FOLDER / "secrets" / "postgres_password")).returncode == 0


def test_no_variable_holds_a_secret() -> None:
    for name, service in SERVICES.items():
        held = {key: value for key, value in service.environment.items() if _is_secret(key)}
        assert all(str(value).startswith("/run/secrets") for value in held.values()), name
        mounted = set(service.given.get("secrets", ()))
        used = set(re.findall(r"/run/secrets/([\w.]+)", str(service.given)))
        assert used <= mounted, name


def _is_secret(variable: str) -> bool:
    return bool(re.search("PASSWORD|SECRET|_KEY|CREDENTIAL|_URL", variable)) and "ENDPOINT" not in variable


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ)
