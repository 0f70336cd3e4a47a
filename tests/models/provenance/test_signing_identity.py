"""Signing identities: made here, imported, and refused before anything is signed by them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models.errors import SigningIdentityError
from models.provenance.signing_identity import (
    Authority,
    SigningIdentity,
    authority_of,
    check_authorities,
    fingerprint,
    name_of,
    organization_of,
)

Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
ISSUER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])


def pem(key: object) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate(
    key: object, *, usages: list[x509.ObjectIdentifier] | None = None, signs: bool = True, is_ca: bool = False
) -> bytes:
    """A certificate of the key by an issuer that isn't given."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(ISSUER)
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.KeyUsage(signs, not signs, False, False, False, False, False, False, False),
            critical=True,
        )
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def refused(given: bytes) -> str:
    with pytest.raises(SigningIdentityError) as error:
        SigningIdentity.parse(given)
    assert "PRIVATE KEY-----\nM" not in str(error.value)
    return str(error.value)


def test_an_identity_made_here_can_be_parsed_and_renewed() -> None:
    authority = Authority.create("Example Studio", 100)
    made = authority.issue(30)
    parsed = SigningIdentity.parse(made.pem + authority.certificate)
    assert (parsed.algorithm, parsed.pem) == ("es256", made.pem)
    assert len(parsed.certificates) == 1, "readers have the authority's own certificate, if they trust it"
    assert (organization_of(parsed.leaf), name_of(parsed.leaf)) == (
        "Example Studio",
        "Example Studio nightmill",
    )
    other = Authority.create("Example Studio", 100)
    assert authority_of(parsed, made.pem + other.certificate + authority.certificate) == authority.certificate
    assert authority_of(parsed, made.pem + other.certificate) == b""
    check_authorities(authority.certificate)
    with pytest.raises(SigningIdentityError, match="no certificate of an authority"):
        check_authorities(made.pem)
    again = Authority.of(parsed, authority.certificate, authority.key).issue(30)
    assert fingerprint(again.leaf) != fingerprint(parsed.leaf)
    assert again.leaf.issuer == parsed.leaf.issuer
    with pytest.raises(SigningIdentityError, match="no certificate of the authority"):
        Authority.of(parsed, Authority.create("Example Studio", 100).certificate, authority.key)


def test_a_certificate_does_not_outlive_its_authority() -> None:
    authority = Authority.create("Example Studio", 10)
    own = x509.load_pem_x509_certificate(authority.certificate)
    assert authority.issue(3000).expires_at == own.not_valid_after_utc


def test_dates_are_checked() -> None:
    made = Authority.create("Example Studio", 10).issue(5)
    made.check_dates(datetime.now(UTC))
    with pytest.raises(SigningIdentityError, match="expired at"):
        made.check_dates(datetime.now(UTC) + timedelta(days=6))
    with pytest.raises(SigningIdentityError, match="is valid from"):
        made.check_dates(datetime.now(UTC) - timedelta(days=1))


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "es384"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (rsa.generate_private_key(65537, 2048), "ps256"),
    ],
)
def test_keys_of_other_kinds(key: object, algorithm: str) -> None:
    document_signing = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
    assert (
        SigningIdentity.parse(pem(key) + certificate(key, usages=[document_signing])).algorithm == algorithm
    )


def test_what_readers_would_refuse_is_refused_at_once() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    mail = [ExtendedKeyUsageOID.EMAIL_PROTECTION]
    good = certificate(key, usages=mail)
    assert "no private key" in refused(good)
    assert "no certificate that can be read" in refused(pem(key))
    assert "none of its certificates belongs" in refused(pem(ec.generate_private_key(ec.SECP256R1())) + good)
    assert "extended key usage" in refused(pem(key) + certificate(key))
    assert "extended key usage" in refused(
        pem(key) + certificate(key, usages=[ExtendedKeyUsageOID.SERVER_AUTH])
    )
    assert "no key usage digitalSignature" in refused(pem(key) + certificate(key, usages=mail, signs=False))
    assert "is of an authority" in refused(pem(key) + certificate(key, usages=mail, is_ca=True))
    authority = Authority.create("Example Studio", 10)
    assert "self-signed" in refused(authority.key + authority.certificate)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    assert "is encrypted" in refused(encrypted + good)
    assert "kind that C2PA doesn't allow" in refused(pem(dsa.generate_private_key(2048)) + good)
    assert "none that C2PA allows" in refused(pem(ec.generate_private_key(ec.SECP256K1())) + good)
    assert "can't be read" in refused(
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + good
    )
