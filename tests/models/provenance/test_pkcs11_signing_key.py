"""Files are signed by keys in a token, which they don't leave."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from models.errors import SigningError, SigningIdentityError
from models.provenance.pkcs11_signing_key import TokenKey
from models.provenance.pkcs11_uri import Pkcs11Uri
from models.provenance.read_manifest import ManifestReader, ManifestState
from models.provenance.sign_file import FileSigner
from models.provenance.signing_identity import SigningIdentity
from models.provenance.verify_raw_signature import verify_raw_signature
from tests.models.provenance.signed_files import AUTHORITY, IDENTITY, claim, file
from tests.models.provenance.soft_token import MODULE, PIN, SoftToken, needs_softhsm, soft_token
from tests.models.provenance.test_signing_identity import pem

pytestmark = needs_softhsm
TRUSTING = ManifestReader(AUTHORITY.certificate)


@pytest.fixture
def token(tmp_path: Path) -> Iterator[SoftToken]:
    with soft_token(tmp_path / "token") as found:
        assert isinstance(IDENTITY.key, bytes)
        found.put(IDENTITY.key)
        yield found


@pytest.fixture
def identity(token: SoftToken) -> SigningIdentity:
    return SigningIdentity.parse_valid(token.identity(IDENTITY))


def issued(private: Any) -> bytes:
    """A certificate of a key by the authority that is trusted, as PEM."""
    issuer, leaf = x509.load_pem_x509_certificate(AUTHORITY.certificate), IDENTITY.leaf
    public = private.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    for extension in leaf.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, critical=extension.critical)
    signed = builder.sign(load_pem_private_key(AUTHORITY.key, None), hashes.SHA256())
    return signed.public_bytes(Encoding.PEM)


def key_at(token: SoftToken, path: str = "token=mill;object=sign") -> TokenKey:
    return TokenKey(Pkcs11Uri.parse(token.uri(path)), "es256")


def is_right(signature: bytes, data: bytes = b"data") -> bool:
    verify_raw_signature(IDENTITY.leaf.public_key(), "es256", signature, data)
    return True


def refused(key: TokenKey) -> str:
    with pytest.raises(SigningError) as caught:
        key.sign(b"data")
    assert PIN not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_file_is_signed_by_a_key_in_a_token(identity: SigningIdentity, format: str) -> None:
    media_type = f"image/{format.lower()}"
    identity.check_signs()
    signed = FileSigner(identity).sign(file(format), media_type, claim())
    found = TRUSTING.read(signed.body, media_type)
    assert found is not None
    assert (found.state, found.id) == (ManifestState.TRUSTED, signed.manifest.id)


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "es384"),
        (ec.generate_private_key(ec.SECP521R1()), "es512"),
        (rsa.generate_private_key(65537, 2048), "ps256"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
    ],
)
def test_keys_of_other_kinds_sign(token: SoftToken, private: object, algorithm: str) -> None:
    token.put(pem(private), label=algorithm, id="02")
    uri = token.uri(f"token=mill;object={algorithm}").encode()
    identity = SigningIdentity.parse_valid(uri + b"\n" + issued(private))
    assert identity.algorithm == algorithm
    identity.check_signs()
    signed = FileSigner(identity).sign(file(), "image/png", claim())
    found = TRUSTING.read(signed.body, "image/png")
    assert found is not None
    assert found.state is ManifestState.TRUSTED


def test_a_key_is_found_by_what_the_uri_says(token: SoftToken) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    token.put(pem(other), label="other", id="02")
    for path in (
        "token=mill;id=%01",
        "object=sign",
        "model=SoftHSM%20v2;manufacturer=SoftHSM%20project;object=sign",
    ):
        assert is_right(key_at(token, path).sign(b"data"))
    assert "2 private keys fit pkcs11:token=mill: name one" in refused(key_at(token, "token=mill"))
    assert "no private key fits pkcs11:object=none" in refused(key_at(token, "object=none"))
    assert "no token fits pkcs11:token=none;object=sign" in refused(key_at(token, "token=none;object=sign"))
    assert "no token fits" in refused(key_at(token, "serial=1234;object=sign"))


def test_the_key_must_be_that_of_the_certificate(token: SoftToken) -> None:
    token.put(pem(ec.generate_private_key(ec.SECP256R1())), label="other", id="02")
    identity = SigningIdentity.parse(token.identity(IDENTITY, "token=mill;object=other"))
    with pytest.raises(
        SigningIdentityError, match="isn't that of the certificate of Example Studio nightmill"
    ):
        identity.check_signs()


def test_a_wrong_pin_is_tried_once(token: SoftToken) -> None:
    """Tokens lock themselves after some tries."""
    key = key_at(token)
    token.pin_file.write_text("wrong-pin\n")
    assert f"refuses the PIN in {token.pin_file}" in refused(key)
    token.take_away()
    assert "isn't tried again before it is changed" in refused(key)
    token.bring_back()
    assert "wrong-pin" not in refused(key)
    token.pin_file.write_text(PIN)
    assert is_right(key.sign(b"data"))
    token.pin_file.unlink()
    assert "can't be read" in refused(key_at(token))


def test_without_a_pin_the_key_is_not_seen(token: SoftToken) -> None:
    uri = Pkcs11Uri.parse(f"pkcs11:token=mill;object=sign?module-path={MODULE}")
    assert "no private key fits" in refused(TokenKey(uri, "es256"))


def test_a_token_that_was_away_is_opened_again(token: SoftToken) -> None:
    key = key_at(token)
    token.take_away()
    assert "no token fits pkcs11:token=mill;object=sign" in refused(key)
    token.bring_back()
    assert is_right(key.sign(b"data"))
    other = key_at(token)  # which ends the sessions of the first
    assert is_right(other.sign(b"data"))
    assert is_right(key.sign(b"data"))


def test_a_module_that_is_not_there_is_said(token: SoftToken, tmp_path: Path) -> None:
    for module in (tmp_path / "none.so", token.pin_file):
        uri = Pkcs11Uri.parse(f"pkcs11:token=mill;object=sign?module-path={module}")
        assert str(module) in refused(TokenKey(uri, "es256"))


def test_threads_sign_at_once(identity: SigningIdentity, token: SoftToken) -> None:
    key, signer = key_at(token), FileSigner(identity)
    with ThreadPoolExecutor(8) as threads:
        signatures = list(threads.map(lambda number: (number, key.sign(bytes([number]))), range(60)))
        signed = list(
            threads.map(lambda _: signer.sign(file(), "image/png", claim()).manifest.state, range(8))
        )
    assert all(is_right(signature, bytes([number])) for number, signature in signatures)
    assert signed == [ManifestState.VALID] * 8


def exit_code_of_fork(work: Callable[[], bool]) -> int:
    """0 if the work returns true in a process that is forked from this one."""
    child = os.fork()
    if child == 0:  # no test may go on in it
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_process_opens_a_session_of_its_own(token: SoftToken) -> None:
    key = key_at(token)
    assert is_right(key.sign(b"data"))
    assert exit_code_of_fork(lambda: is_right(key.sign(b"data"))) == 0
    token.pin_file.write_text("wrong-pin")
    assert exit_code_of_fork(lambda: "refuses the PIN" in refused(key)) == 0
    assert is_right(key.sign(b"data")), "the session of this process goes on"


def test_a_token_that_is_away_is_told_by_its_own_reason(identity: SigningIdentity, token: SoftToken) -> None:
    signer = FileSigner(identity)
    token.take_away()
    with pytest.raises(SigningError, match="no token fits pkcs11:token=mill;object=sign"):
        signer.sign(file(), "image/png", claim())
    token.bring_back()
    assert signer.sign(file(), "image/png", claim()).manifest.state is ManifestState.VALID
