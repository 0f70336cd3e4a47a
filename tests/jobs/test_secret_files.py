"""NIGHTMILL_SECRETS_DIR: settings from files, as Docker, Kubernetes and systemd hand secrets over."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from console.commands import doctor
from jobs.errors import UsageError
from jobs.settings import load_settings
from jobs.settings_sources import files_read, misspelt_settings

DATABASE = "postgresql://mill:in-a-file@host/nightmill"
BROKER = "redis://:in-a-file@host:6379/0"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, with a database's URL."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "nightmill_database_url").write_text(f"{DATABASE}\n")
    (folder / "postgres_password").write_text("of another program")
    monkeypatch.setenv("NIGHTMILL_SECRETS_DIR", str(folder))
    return folder


def test_a_file_holds_a_setting_and_its_last_newline_is_none_of_it(secrets: Path) -> None:
    settings = load_settings()
    assert settings.database == DATABASE
    assert settings.secrets_dir == secrets
    assert files_read() == [secrets / "nightmill_database_url"]
    assert "in-a-file" not in repr(settings)


def test_what_is_given_and_variables_win_over_files(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "NIGHTMILL_BROKER_URL").write_text(BROKER)
    (secrets / "nightmill_lease_s").write_text("12\n")
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", "postgresql://variable/x")
    settings = load_settings(lease_s=7)
    assert (settings.database, settings.broker, settings.lease_s) == ("postgresql://variable/x", BROKER, 7)
    assert {path.name for path in files_read()} == {"NIGHTMILL_BROKER_URL", "nightmill_lease_s"}


def test_started_processes_get_what_the_files_say(secrets: Path) -> None:
    assert load_settings().environment()["NIGHTMILL_DATABASE_URL"] == DATABASE


def test_a_mount_of_kubernetes_is_read_through_its_links(secrets: Path) -> None:
    (secrets / "..2026_11").mkdir()
    (secrets / "..2026_11" / "nightmill_broker_url").write_text(BROKER)
    (secrets / "..data").symlink_to("..2026_11")
    (secrets / "nightmill_broker_url").symlink_to("..data/nightmill_broker_url")
    assert load_settings().broker == BROKER


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"postgresql://h\xff/x", "isn't text in UTF-8")],
)
def test_a_file_that_says_nothing_is_refused(secrets: Path, content: bytes, reason: str) -> None:
    (secrets / "nightmill_database_url").write_bytes(content)
    assert refusal() == f"NIGHTMILL_SECRETS_DIR: {secrets}/nightmill_database_url {reason}"


def test_a_wrong_value_in_a_file_is_named_without_it(secrets: Path) -> None:
    (secrets / "nightmill_broker_url").write_text("http://user:secret@host")
    assert refusal().startswith("NIGHTMILL_BROKER_URL: must be redis://")
    assert "secret@" not in refusal()


def test_what_is_no_file_of_the_folder_is_refused(secrets: Path, tmp_path: Path) -> None:
    path = secrets / "nightmill_broker_url"
    path.mkdir()
    assert refusal() == f"NIGHTMILL_SECRETS_DIR: {path} can't be read: Is a directory"
    path.rmdir()
    path.symlink_to("nowhere")
    assert refusal() == f"NIGHTMILL_SECRETS_DIR: {path} can't be read: No such file or directory"
    path.unlink()
    (tmp_path / "elsewhere").write_text(BROKER)
    path.symlink_to(tmp_path / "elsewhere")
    assert refusal() == f"NIGHTMILL_SECRETS_DIR: {path} is a link that leads out of the folder"


def test_what_may_not_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory() as name, as_nobody_special():
        folder = Path(name)
        path = folder / "nightmill_database_url"
        monkeypatch.setenv("NIGHTMILL_SECRETS_DIR", name)
        assert refusal() == f"NIGHTMILL_SECRETS_DIR: can't list {name}: Permission denied"
        with as_owner():
            folder.chmod(0o755)
            path.touch(0o200)
        assert refusal() == f"NIGHTMILL_SECRETS_DIR: {path} can't be read: Permission denied"


def test_a_folder_that_is_not_there_is_refused(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_SECRETS_DIR", f"{secrets}-gone")
    assert refusal() == f"NIGHTMILL_SECRETS_DIR: can't list {secrets}-gone: No such file or directory"
    monkeypatch.setenv("NIGHTMILL_SECRETS_DIR", f"{secrets}/postgres_password")
    assert refusal() == f"NIGHTMILL_SECRETS_DIR: can't list {secrets}/postgres_password: Not a directory"


def test_the_doctor_names_what_is_read_and_what_is_misspelt(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NIGHTMILL_DEFAULT_MODEL")
    assert doctor._settings() == (
        f"every NIGHTMILL_ variable is one; read from files: {secrets}/nightmill_database_url"
    )
    (secrets / "nightmill_databse_url").write_text(DATABASE)
    assert misspelt_settings() == {f"{secrets}/nightmill_databse_url": "nightmill_database_url"}
    with pytest.raises(UsageError, match="databse_url is no setting; did you mean nightmill_database_url"):
        doctor._settings()


def refusal() -> str:
    with pytest.raises(UsageError) as refused:
        load_settings()
    return str(refused.value)


@contextmanager
def as_nobody_special() -> Iterator[None]:
    """As a user who may not read everything, as root may."""
    was = os.geteuid()
    if was:
        pytest.skip("needs root, to be somebody else")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


@contextmanager
def as_owner() -> Iterator[None]:
    """As root again."""
    was = os.geteuid()
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(was)
