"""Keys that S3 refuses: whose they are is said, and a renewed one is found by the store that is open."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.errors import ObjectStoreError, StoreCredentialsError, StoreDeniedError, StoreUnavailableError
from jobs.storage import s3_connection
from jobs.storage.name_s3_access_key import masked
from jobs.storage.open import MissingObjectError, ObjectStore, S3Options, open_store
from tests.chaos.proxy import Proxy, Request, faulty
from tests.s3 import S3Server, shared_credentials

OLD, NEW = "AKIAOLDOLDOLDOLDOLD1", "AKIANEWNEWNEWNEWNEW2"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """A proxy before the store that can refuse keys."""
    with faulty(s3.endpoint_url, share=0, hang_s=0) as proxy:
        yield proxy


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared credentials file, where boto3 finds the old key."""
    return shared_credentials(tmp_path / "credentials", OLD, monkeypatch)


@pytest.fixture
def store(s3: S3Server, proxy: Proxy, key_file: Path) -> ObjectStore:
    """An open store, with the key of the file."""
    return open_store(f"{s3.uri}/keys", S3Options(proxy.endpoint_url, "us-east-1", max_attempts=1))


def write(store: ObjectStore) -> None:
    """Store an object."""
    store.put("a", b"1", content_type="text/plain")


def refuse(proxy: Proxy, key_id: str, status: int = 403, code: str = "InvalidAccessKeyId") -> None:
    """Refuse one key from now on."""

    def refusal(request: Request) -> tuple[int, str] | None:
        return (status, code) if request.key_id == key_id else None

    proxy.refusal = refusal


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed"),
        (403, "ExpiredToken"),
        (400, "ExpiredToken"),
        (400, "InvalidToken"),
        (401, "Unauthorized"),
    ],
)
def test_a_refused_key_is_named_and_its_successor_found(
    store: ObjectStore, proxy: Proxy, key_file: Path, status: int, code: str
) -> None:
    refuse(proxy, OLD, status, code)
    for _ in range(2):
        with pytest.raises(StoreCredentialsError) as caught:
            write(store)
    said = str(caught.value)
    assert said.startswith(f"can't upload {store.uri}/a: ")
    assert said.endswith(f"({code}); key …OLD1 from the shared credentials file {key_file}, profile default")
    assert OLD not in said
    assert "s3cr3t" not in said
    shared_credentials(key_file, NEW)
    write(store)


def test_a_twin_that_keeps_its_client_never_finds_the_renewed_key(
    store: ObjectStore, proxy: Proxy, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_connection.S3Connection, "_discard", lambda *_: None)
    refuse(proxy, OLD)
    shared_credentials(key_file, NEW)
    for _ in range(2):
        with pytest.raises(StoreCredentialsError, match="OLD1"):
            write(store)


def test_permissions_that_are_missing_are_no_error_of_the_key(
    store: ObjectStore, proxy: Proxy, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(proxy, OLD, code="AccessDenied")
    with pytest.raises(StoreDeniedError, match=r"AccessDenied\); key …OLD1 from the shared"):
        write(store)
    shared_credentials(key_file, NEW)
    with pytest.raises(StoreDeniedError, match="OLD1"):
        write(store)  # a client isn't made anew for each of many forbidden objects
    monkeypatch.setattr(s3_connection, "RENEW_S", 0)
    with pytest.raises(StoreDeniedError, match="OLD1"):
        write(store)
    write(store)


def test_keys_of_the_environment_are_named(
    s3: S3Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OLD)
    refuse(proxy, OLD)
    with pytest.raises(StoreCredentialsError, match=r"key …OLD1 from the environment"):
        write(open_store(s3.uri, S3Options(proxy.endpoint_url, "us-east-1", max_attempts=1)))


def test_a_store_that_lost_its_key_finds_the_next(store: ObjectStore, proxy: Proxy, key_file: Path) -> None:
    refuse(proxy, OLD)
    key_file.write_text("")
    for _ in range(2):
        with pytest.raises(StoreCredentialsError):
            write(store)
    with pytest.raises(StoreCredentialsError, match=r"NoCredentialsError.*; no key: boto3 found none"):
        write(store)
    key_file.write_text("[default\n")  # as an editor may leave it for a moment
    with pytest.raises(StoreUnavailableError, match="set up the S3 client"):
        write(store)
    shared_credentials(key_file, NEW)
    write(store)


class TestCredentialProcess:
    """A program that prints the key, which boto3 asks again when the key is about to expire."""

    @pytest.fixture
    def answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The file that the program prints."""
        answer, config = tmp_path / "answer.json", tmp_path / "config"
        code = "import sys; print(open(sys.argv[1]).read())"
        config.write_text(f'[default]\ncredential_process = "{sys.executable}" -c "{code}" "{answer}"\n')
        shared_credentials(tmp_path / "none", "", monkeypatch).unlink()
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        return answer

    def tell(self, answer: Path, key_id: str, lasts: timedelta) -> None:
        key = {"Version": 1, "AccessKeyId": key_id, "SecretAccessKey": "secret", "SessionToken": "secret-too"}
        answer.write_text(json.dumps(key | {"Expiration": (datetime.now(UTC) + lasts).isoformat()}))

    def test_it_is_asked_again_without_a_restart(self, s3: S3Server, proxy: Proxy, answer: Path) -> None:
        self.tell(answer, OLD, timedelta(minutes=5))  # boto3 refreshes what lasts for less than ten minutes
        store = open_store(f"{s3.uri}/process", S3Options(proxy.endpoint_url, "us-east-1", max_attempts=1))
        write(store)
        answer.write_text("signed out")
        with pytest.raises(StoreCredentialsError, match=r"refreshed .*it comes from credential_process"):
            write(store)
        self.tell(answer, OLD, -timedelta(minutes=1))
        with pytest.raises(StoreCredentialsError, match="still expired"):
            write(store)
        self.tell(answer, NEW, timedelta(hours=1))
        refuse(proxy, OLD)
        write(store)

    def test_a_key_that_is_revoked_early_is_asked_for_again(
        self, s3: S3Server, proxy: Proxy, answer: Path
    ) -> None:
        self.tell(answer, OLD, timedelta(hours=1))
        store = open_store(f"{s3.uri}/process", S3Options(proxy.endpoint_url, "us-east-1", max_attempts=1))
        refuse(proxy, OLD, 400, "ExpiredToken")
        with pytest.raises(StoreCredentialsError, match=r"key …OLD1 from credential_process"):
            write(store)
        self.tell(answer, NEW, timedelta(hours=1))
        write(store)


def test_a_role_that_may_not_be_assumed_is_an_error_of_the_key(
    s3: S3Server, proxy: Proxy, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whatever object it is said: STS's "access denied" isn't the object's."""
    config = tmp_path / "config"
    config.write_text(
        f"[default]\nregion = us-east-1\n[profile farm]\nsource_profile = default\n"
        f"role_arn = arn:aws:iam::123456789012:role/farm\nendpoint_url = {proxy.endpoint_url}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "farm")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", proxy.endpoint_url)
    proxy.refusal = lambda request: (403, "AccessDenied") if request.verb == "POST" else None
    store = open_store(f"{s3.uri}/role", S3Options(proxy.endpoint_url, "us-east-1", max_attempts=1))
    with pytest.raises(ObjectStoreError, match=r"\(AssumeRole: .*from the assumed role of") as caught:
        store.get("a")
    assert isinstance(caught.value, StoreCredentialsError)

    shared_credentials(key_file, NEW)
    proxy.refusal = lambda request: (403, "AccessDenied") if request.key_id == OLD else None
    with pytest.raises(MissingObjectError):
        store.get("a")


def test_short_ids_are_not_shown() -> None:
    assert masked("tests") == "…"
    assert masked("minioadmin") == "…dmin"
