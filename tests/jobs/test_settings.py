"""Settings come from NIGHTMILL_*; what is wrong there is said by name and without a password."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from jobs.db.engine import check_reachable, connect
from jobs.errors import ServiceError, UsageError
from jobs.settings import RENAMED, Settings, load_settings, without_password
from jobs.settings_sources import misspelt_settings

SECRET = "hunter2"


def test_nothing_set_means_a_private_installation_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.data_dir == tmp_path / ".nightmill"
    assert settings.output == str(tmp_path / "output")
    assert settings.models_path == tmp_path / ".nightmill" / "models"
    assert (settings.database_url, settings.broker_url) == (None, None)


def test_the_environment_is_read_and_what_is_given_goes_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_LEASE_S", "12.5")
    monkeypatch.setenv("NIGHTMILL_QUEUE", "theirs")
    settings = load_settings(queue="ours", tick_s=None)
    assert (settings.lease_s, settings.queue, settings.tick_s) == (12.5, "ours", 0.5)


@pytest.mark.parametrize("output", ["s3://bucket/prefix", "file:///tmp/x"])
def test_an_output_elsewhere_is_kept_as_it_is(output: str) -> None:
    assert load_settings(output=output).output == output


def test_home_is_written_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(output="~/out").output == str(tmp_path / "out")
    assert load_settings(data_dir="~/data").data_dir == tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("LEASE_S", "soon", "must be a number"),
        ("LEASE_S", "0.5", "must be more than 0.5"),
        ("LEASE_S", "nan", "must be more than 0.5"),
        ("CLAIM", "0", "must be at least 1"),
        ("CLAIM", "1001", "must be at most 1,000"),
        ("BATCH_SIZE", "-1", "must be at least 1"),
        ("BATCH_SIZE", "12", "must be a power of two"),
        ("QUEUE", "a b", "must be made of letters"),
        ("QUEUE", "", "must be made of letters"),
        ("WATERMARK", "ä", "must be ASCII"),
        ("WATERMARK", "", "must not be empty"),
        ("WATERMARK", "x" * 33, "must have at most 32 characters"),
        ("WATERMARK_METHOD", "rivaGan", "dwtDct"),
        ("LOG_LEVEL", "loud", "must be 'DEBUG', 'INFO'"),
        ("CLAIM", "1.5", "must be a whole number"),
        ("DEVICE", "gpu", "must be auto, cpu, mps, cuda or cuda:N"),
        ("MANIFEST_LIMIT", "lots", "must be a number of bytes, as in"),
        ("MANIFEST_LIMIT", "-1", "must be a number of bytes, as in"),
        ("MANIFEST_LIMIT", "0", "must be at least 1"),
        ("WEIGHTS", "fp4", "must be 'full', 'fp8'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(f"NIGHTMILL_{name}", value)
    with pytest.raises(UsageError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"NIGHTMILL_{name}: ")
    assert reason in message
    assert f"(got {value!r})" in message
    assert "\n" not in message
    assert not re.search(r"[Ii]nput|[Ss]tring|valid|pattern|parse", message)


def test_a_wrong_url_is_named_without_its_value() -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(database_url=["postgresql://user:" + SECRET + "@host/db"])
    assert str(caught.value).startswith("NIGHTMILL_DATABASE_URL: ")
    assert SECRET not in str(caught.value)


def secretive() -> Settings:
    return load_settings(
        database_url=f"postgresql://user:{SECRET}@host/db", broker_url=f"redis://:{SECRET}@host/0"
    )


def test_passwords_are_not_printed_with_the_settings() -> None:
    settings = secretive()
    assert SECRET not in repr(settings) + str(settings) + str(settings.model_dump())
    assert settings.database.count(SECRET) == settings.broker.count(SECRET) == 1


def test_processes_that_are_started_get_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_QUEUE", "from-outside")
    monkeypatch.setenv("OTHER", "stays")
    settings = load_settings(
        data_dir="/data",
        queue="own",
        batch_size=4,
        prompt_terms="/terms",
        lease_s=7,
        image_roots="/a,s3://b/c",
        weights="int8",
    ).model_copy(update={"database_url": SecretStr(f"postgresql://u:{SECRET}@h/d")})
    environment = settings.environment()
    assert environment["OTHER"] == "stays"
    assert environment["NIGHTMILL_QUEUE"] == "own"
    for name in [name for name in environment if name.startswith("NIGHTMILL_")]:
        monkeypatch.setenv(name, environment[name])
    assert load_settings() == settings
    assert "NIGHTMILL_BROKER_URL" not in environment


def test_roots_of_pictures_are_folders_and_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().image_roots == ()
    monkeypatch.setenv("NIGHTMILL_IMAGE_ROOTS", " /pictures , s3://bucket/ours,,own ")
    assert load_settings().image_roots == ("/pictures", "s3://bucket/ours", str(Path.cwd() / "own"))
    monkeypatch.setenv("NIGHTMILL_IMAGE_ROOTS", "")
    assert load_settings().image_roots == ()


@pytest.mark.parametrize(("name", "value"), [("WEIGHTS", "int2"), ("LOW_MEMORY", "yes")])
def test_unknown_ways_to_save_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"NIGHTMILL_{name}", value)
    with pytest.raises(UsageError, match=f"NIGHTMILL_{name}"):
        load_settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().queue = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://user:{SECRET}@host:5432/db", "postgresql://user@host:5432/db"),
        (f"redis://:{SECRET}@host:6379/0", "redis://host:6379/0"),
        (f"postgresql:///db?host=/run&password={SECRET}", "postgresql:///db"),
        (f"postgresql://user:a{SECRET}%40b@host/db", "postgresql://user@host/db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"{SECRET} is no url", "is not a URL; write postgresql://"),
        (f"mysql://user:{SECRET}@host/db", r"must be postgresql://…, not mysql://…"),
        (f"postgresql://user:a@{SECRET}@host/db", "has two '@'; write the one in the password as %40"),
        (f"postgresql://user:{SECRET}@host:port/db", "is not a URL; write postgresql://"),
    ],
)
def test_a_database_url_of_another_kind_is_refused_in_plain_words(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"NIGHTMILL_DATABASE_URL {message}") as caught:
        connect(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@127.0.0.1:9/db",
        f"postgresql://user@127.0.0.1:9/db?password={SECRET}",
        f"postgresql://user:{SECRET}@/db?host=/nowhere",
    ],
)
def test_a_database_that_is_away_is_said_without_its_password(url: str) -> None:
    engine = connect(url)
    with pytest.raises(ServiceError, match="can't reach PostgreSQL at postgresql") as caught:
        check_reachable(engine)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


BROKER, DATABASE, ENDPOINT = "BROKER_URL", "DATABASE_URL", "S3_ENDPOINT_URL"


@pytest.mark.parametrize(
    ("name", "url", "reason"),
    [
        (BROKER, f"memory://{SECRET}", r"must be redis://…, .*, not memory://…"),
        (BROKER, f"filesystem://{SECRET}", "not filesystem://…"),
        (BROKER, f"sqla+postgresql://u:{SECRET}@h/d", "not sqla"),
        (BROKER, f"sentinel://:{SECRET}@h:26379;sentinel://i:26379", "not sentinel://…"),
        (BROKER, f"amqp://u:{SECRET}@h", "not amqp://…"),
        (BROKER, SECRET, "is not a URL"),
        (BROKER, "", "is not a URL"),
        (BROKER, f"redis://[{SECRET}/0", "is not a URL"),
        (BROKER, f"redis://:{SECRET}@h:99999/0", "the port must be a number"),
        (BROKER, f"redis://:{SECRET}@h:0/0", "the port must be a number"),
        (BROKER, f"redis://:a/{SECRET}@h:6379/0", "the port must be a number"),
        (BROKER, f"redis://h:{SECRET}/0", "the port must be a number"),
        (BROKER, f"redis://h/{SECRET}", "the number of the database"),
        (BROKER, f"redis://h/0?virtual_host={SECRET}", "after the [?] may stand nothing"),
        (BROKER, f"redis://h/0?password={SECRET}", "after the [?] may stand nothing"),
        (BROKER, f"redis://h/0?bogus={SECRET}", "after the [?] may stand nothing"),
        (BROKER, f"redis://:a?{SECRET}@h/0", "the port must be|after the"),
        (BROKER, f"redis://:{SECRET}#@h/0", "the port must be|after the"),
        (BROKER, f"rediss://h/0?credential_provider={SECRET}", "after the [?] may stand ssl_ca_certs"),
        (BROKER, f"redis+socket:///s?virtual_host={SECRET}", "the number of the database"),
        (BROKER, f"redis+socket:///s?{SECRET}=1", "after the [?] may stand virtual_host"),
        (DATABASE, f"postgresql://u:{SECRET}@h:99999/d", "the port must be a number"),
        (ENDPOINT, f"ftp://{SECRET}", "must be http://…, https://…, not ftp://…"),
        (ENDPOINT, f"http://h:{SECRET}", "the port must be a number"),
        (ENDPOINT, "https://", "the host is missing"),
    ],
)
def test_urls_that_cannot_be_are_named_without_their_contents(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, reason: str
) -> None:
    monkeypatch.setenv(f"NIGHTMILL_{name}", url)
    with pytest.raises(UsageError, match=f"^NIGHTMILL_{name}: .*{reason}") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (BROKER, "redis://"),
        (BROKER, "redis://user:p%40ss@host:6379/15"),
        (BROKER, "redis://[::1]:6379"),
        (BROKER, "rediss://host/0?ssl_cert_reqs=required"),
        (BROKER, "redis+socket:///run/redis.sock?virtual_host=3"),
        (DATABASE, "postgresql://u:p@h:5432/d?sslmode=require"),
        (DATABASE, "postgresql:///d?host=/run/postgresql"),
        (ENDPOINT, "http://127.0.0.1:9000"),
    ],
)
def test_urls_that_can_be_are_taken(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(f"NIGHTMILL_{name}", url)
    taken = getattr(load_settings(), name.lower())
    assert (taken.get_secret_value() if isinstance(taken, SecretStr) else taken) == url


def test_what_postgresql_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="NIGHTMILL_DATABASE_URL: PostgreSQL knows no bogus") as caught:
        connect(f"postgresql://h/d?bogus={SECRET}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("former", "name"), RENAMED.items())
def test_a_former_name_is_read_with_a_warning(
    former: str, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(f"NIGHTMILL_{former.upper()}", "4")
    assert getattr(load_settings(**{name: None}), name) == 4, "an option that wasn't given"
    assert f"NIGHTMILL_{former.upper()} is now called NIGHTMILL_{name.upper()}" in caplog.text
    monkeypatch.setenv(f"NIGHTMILL_{name.upper()}", "8")
    assert getattr(load_settings(), name) == 8
    monkeypatch.delenv(f"NIGHTMILL_{name.upper()}")
    monkeypatch.setenv(f"NIGHTMILL_{former.upper()}", "soon")
    with pytest.raises(UsageError, match=f"NIGHTMILL_{name.upper()}: must be a"):
        load_settings()


def test_variables_that_are_no_settings_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_TIMESLICE_S", "4")
    monkeypatch.setenv("NIGHTMILL_LEASE_S", "4")
    monkeypatch.setenv("NIGHTMILL_SHIFT_S", "4")
    monkeypatch.delenv("NIGHTMILL_DEFAULT_MODEL", raising=False)
    assert misspelt_settings() == {"NIGHTMILL_TIMESLICE_S": "NIGHTMILL_TIME_SLICE_S"}


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("rediss://h/0", "rediss://h/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca.pem", "rediss://h/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("redis://h/0", "redis://h/0"),
    ],
)
def test_a_brokers_certificate_is_checked_unless_the_url_says_otherwise(url: str, used: str) -> None:
    settings = load_settings(broker_url=url)
    assert settings.broker == used
    assert settings.environment()["NIGHTMILL_BROKER_URL"] == url
