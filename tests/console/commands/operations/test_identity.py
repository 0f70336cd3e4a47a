"""`nightmill identity`: signing identities are made, shown, renewed, taken over and deleted."""

import re
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from console.commands.doctor import _signing
from jobs.errors import UsageError
from jobs.settings import Settings
from models.provenance.signing_identity import Authority, SigningIdentity
from tests.console.conftest import Typed
from tests.models.provenance.signed_files import AUTHORITY, IDENTITY, expired_identity, identity_valid_for
from tests.models.provenance.soft_token import PIN, needs_softhsm, soft_token
from worker.__main__ import _with_signing_decided


@pytest.fixture
def offline(settings: Settings, tmp_path: Path) -> Typed:
    """No command of the group needs a database."""
    given = {"database_url": None, "broker_url": None, "data_dir": tmp_path / "data"}
    return Typed(settings.model_copy(update=given), tmp_path)


def folder(typed: Typed) -> Path:
    return typed.settings.data_dir / "identity"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_identity_is_made_once_with_keys_that_nobody_else_reads(offline: Typed) -> None:
    told = offline("identity", "show")
    assert (told.code, "there is no signing identity" in told.err) == (1, True)
    made = offline("identity", "create", "--organization", "Example Studio", "--json")
    assert made.code == 0, made.err
    assert (made.json["organization"], made.json["is_usable"], made.json["signs"]) == (
        "Example Studio",
        True,
        True,
    )
    assert "PRIVATE KEY" not in made.out + made.err
    modes = {path.name: mode(path) for path in folder(offline).iterdir()}
    assert modes == {"signing.pem": 0o600, "authority-key.pem": 0o600, "trusted.pem": 0o644}
    assert mode(folder(offline)) == 0o700
    before = (folder(offline) / "signing.pem").read_bytes()
    again = offline("identity", "create")
    assert (again.code, "`nightmill identity rotate` makes a new key" in again.err) == (2, True)
    assert (folder(offline) / "signing.pem").read_bytes() == before
    assert offline("identity", "show", "--json").json == made.json


@pytest.mark.parametrize("name", [" ", "x" * 61, "two\nlines"])
def test_names_that_no_certificate_has_are_refused(offline: Typed, name: str) -> None:
    told = offline("identity", "create", "--organization", name)
    assert (told.code, "--organization must have 1 to 60 printable characters" in told.err) == (2, True)
    assert not folder(offline).exists()


def test_rotation_keeps_the_authority_or_adds_one(offline: Typed) -> None:
    assert offline("identity", "rotate").code == 2
    first = offline("identity", "create", "--organization", "Example Studio", "--json").json
    second = offline("identity", "rotate", "--days", "20", "--json").json
    assert (second["organization"], second["trusted_authorities"]) == ("Example Studio", 1)
    assert second["fingerprint"] != first["fingerprint"]
    assert second["problem"] == "expires in 19 days"
    third = offline("identity", "rotate", "--new-authority", "--json").json
    assert (third["organization"], third["trusted_authorities"], third["problem"]) == (
        "Example Studio",
        2,
        None,
    )
    assert offline("identity", "rotate", "--json").json["trusted_authorities"] == 2


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (timedelta(minutes=11, seconds=50), r"1[01]m\d\ds"),
        (timedelta(hours=30, minutes=5), r"30h0\dm"),
        (timedelta(days=2, minutes=5), "2 days"),
        (timedelta(days=29, hours=23), "29 days"),
        (timedelta(days=30, minutes=5), None),
    ],
)
def test_how_long_a_certificate_is_still_valid(offline: Typed, left: timedelta, said: str | None) -> None:
    pem = identity_valid_for(left).pem.decode()
    given = offline.settings.model_copy(update={"signing_identity": SecretStr(pem)})
    problem = Typed(given, offline.folder)("identity", "show", "--json").json["problem"]
    if said is None:
        assert problem is None
        return
    assert re.fullmatch(f"expires in {said}", problem), problem
    with pytest.raises(UsageError, match=f"expires in {said}"):
        _signing(given)


def test_an_identity_of_ones_own_is_taken_over(offline: Typed, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(IDENTITY.chain + AUTHORITY.certificate)
    (tmp_path / "key.pem").write_bytes(IDENTITY.key)
    told = offline("identity", "import", str(tmp_path / "chain.pem"))
    assert (told.code, "chain.pem: holds no private key" in told.err) == (2, True)
    given = ("identity", "import", str(tmp_path / "chain.pem"), "--key", str(tmp_path / "key.pem"))
    assert offline(*given, "--json").json["organization"] == "Example Studio"
    assert SigningIdentity.parse((folder(offline) / "signing.pem").read_bytes()) == IDENTITY
    assert (folder(offline) / "trusted.pem").read_bytes() == AUTHORITY.certificate
    told = offline("identity", "rotate")
    assert (told.code, "`nightmill identity import --replace` takes over" in told.err) == (2, True)
    assert (offline(*given).code, offline(*given, "--replace").code) == (2, 0)
    (tmp_path / "old.pem").write_bytes(expired_identity().pem)
    told = offline("identity", "import", str(tmp_path / "old.pem"), "--replace")
    assert (told.code, "expired at 2020-" in told.err) == (2, True)
    for name in ("absent.pem", "."):
        told = offline("identity", "import", str(tmp_path / name), "--replace")
        assert (told.code, "can't be read" in told.err) == (2, True)


def test_a_chain_without_its_authority_is_a_stranger_s_unless_that_is_trusted_already(
    offline: Typed, tmp_path: Path
) -> None:
    def imported(chain: bytes, *options: str) -> str:
        (tmp_path / "chain.pem").write_bytes(IDENTITY.key + chain)
        told = offline("identity", "import", str(tmp_path / "chain.pem"), *options)
        assert told.code == 0, told.err
        return told.err

    warning = "its signatures count as those of a stranger"
    assert warning in imported(IDENTITY.chain)
    (folder(offline) / "trusted.pem").write_bytes(Authority.create("Example Studio", 100).certificate)
    assert warning in imported(IDENTITY.chain, "--replace"), "another authority of the same name is trusted"
    assert warning not in imported(IDENTITY.chain + AUTHORITY.certificate, "--replace")
    assert warning not in imported(IDENTITY.chain, "--replace")


@needs_softhsm
def test_a_key_in_a_token_is_taken_over_shown_and_left_there(offline: Typed, tmp_path: Path) -> None:
    assert isinstance(IDENTITY.key, bytes)
    (tmp_path / "chain.pem").write_bytes(IDENTITY.chain + AUTHORITY.certificate)
    with soft_token(tmp_path / "token") as token:
        token.put(IDENTITY.key)
        given = ("identity", "import", str(tmp_path / "chain.pem"), "--key", token.uri())
        made = offline(*given, "--json")
        assert made.code == 0, made.err
        assert (made.json["organization"], made.json["key"]) == (
            "Example Studio",
            "in a token: pkcs11:token=mill;object=sign",
        )
        kept = (folder(offline) / "signing.pem").read_text()
        assert "PRIVATE KEY" not in kept
        assert kept.startswith(token.uri())
        assert mode(folder(offline) / "signing.pem") == 0o600
        assert (folder(offline) / "trusted.pem").read_bytes() == AUTHORITY.certificate
        for option in ((), ("--new-authority",)):
            told = offline("identity", "rotate", *option)
            assert (told.code, "`nightmill identity import --replace`" in told.err) == (2, True)
        token.pin_file.chmod(0o644)
        told = offline("identity", "show", "--json")
        assert (told.code, "its PIN can be read by every user" in told.json["problem"]) == (0, True)
        token.take_away()
        told = offline("identity", "show", "--json")
        assert (told.code, told.json["is_usable"]) == (1, False)
        assert "no token fits pkcs11:token=mill;object=sign" in told.json["problem"]
        deleted = offline("identity", "delete", "-y")
        assert "the key stays in its token: pkcs11:token=mill;object=sign" in deleted.err
        token.bring_back()
        again = offline(*given)
        assert again.code == 0, again.err
        assert PIN not in made.out + made.err + again.out + again.err + kept


@needs_softhsm
def test_a_key_in_a_token_that_can_not_sign_is_not_taken_over(offline: Typed, tmp_path: Path) -> None:
    other = AUTHORITY.issue(10)
    assert isinstance(other.key, bytes)
    (tmp_path / "chain.pem").write_bytes(IDENTITY.chain)
    with soft_token(tmp_path / "token") as token:
        token.put(other.key)
        for uri, reason in (
            (token.uri(), "isn't that of the certificate of Example Studio nightmill"),
            (token.uri("token=mill;object=none"), "no private key fits pkcs11:token=mill;object=none"),
            (token.uri() + "&pin-value=1234", "has a PIN (pin-value), which others could see"),
            ("pkcs11:token=mill", "has no module-path"),
        ):
            told = offline("identity", "import", str(tmp_path / "chain.pem"), "--key", uri)
            assert (told.code, reason in told.err, "1234" in told.err) == (2, True, False), told.err
        assert not folder(offline).exists()


def test_keys_are_deleted_and_certificates_stay(offline: Typed) -> None:
    assert offline("identity", "delete", "-y").code == 2
    offline("identity", "create")
    assert offline("identity", "delete", stdin="n\n").code != 0
    deleted = offline("identity", "delete", "-y", "--json").json["deleted"]
    assert [Path(path).name for path in deleted] == ["signing.pem", "authority-key.pem"]
    assert [path.name for path in folder(offline).iterdir()] == ["trusted.pem"]
    assert offline("identity", "create").code == 0


def test_a_setting_is_used_before_the_folder_and_never_shown(offline: Typed, tmp_path: Path) -> None:
    offline("identity", "create", "--organization", "Folder")
    own = tmp_path / "own.pem"
    own.write_bytes(IDENTITY.pem)
    for value in (str(own), IDENTITY.pem.decode()):
        given = offline.settings.model_copy(update={"signing_identity": SecretStr(value)})
        told = Typed(given, tmp_path)("identity", "show", "--json")
        assert (told.json["organization"], told.json["place"][:26]) == (
            "Example Studio",
            "NIGHTMILL_SIGNING_IDENTITY",
        )
        assert "PRIVATE KEY" not in told.out + told.err
    off = offline.settings.model_copy(update={"c2pa": "off"})
    assert Typed(off, tmp_path)("identity", "show", "--json").json["signs"] is False


def test_manifests_beside_the_files_need_an_identity_as_on_does(offline: Typed, tmp_path: Path) -> None:
    beside = offline.settings.model_copy(update={"c2pa": "sidecar"})
    with pytest.raises(UsageError, match="NIGHTMILL_C2PA is sidecar, and there is no signing identity"):
        _with_signing_decided(beside)
    with pytest.raises(UsageError, match="NIGHTMILL_C2PA is sidecar"):
        _signing(beside)
    offline("identity", "create", "--organization", "Folder")
    assert _with_signing_decided(beside).c2pa == "sidecar"
    assert _with_signing_decided(offline.settings).c2pa == "on"
    told = Typed(beside, tmp_path)("identity", "show", "--json").json
    assert (told["signs"], told["manifests"]) == (True, "sidecar")
    assert "in files beside the images" in _signing(beside)


def test_what_cannot_be_used_is_told(offline: Typed, tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_bytes(expired_identity().pem)
    given = offline.settings.model_copy(update={"signing_identity": SecretStr(str(tmp_path / "own.pem"))})
    told = Typed(given, tmp_path)("identity", "show", "--json")
    assert (told.code, told.json["is_usable"], "expired" in told.json["problem"]) == (1, False, True)
    gone = offline.settings.model_copy(update={"signing_identity": SecretStr(str(tmp_path / "gone.pem"))})
    told = Typed(gone, tmp_path)("identity", "show")
    assert (told.code, "NIGHTMILL_SIGNING_IDENTITY" in told.err, "can't be read" in told.err) == (
        2,
        True,
        True,
    )
