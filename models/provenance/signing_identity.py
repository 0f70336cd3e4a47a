"""Signing identities: a private key and its X.509 certificates, as C2PA needs them, in one PEM file.

In the place of the key there may be a PKCS#11 URI, on a line to itself: then the key is in a token.

What a certificate of a claim signer must be: C2PA specification 2.2, section 14.5 ("X.509 Certificates").
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models.errors import MissingPackagesError, SigningError, SigningIdentityError
from models.optional_packages import require
from models.provenance.parse_certificates import extensions_of, parse_certificates
from models.provenance.pkcs11_signing_key import TokenKey
from models.provenance.pkcs11_uri import Pkcs11Uri, uri_in
from models.provenance.verify_raw_signature import verify_raw_signature

_C2PA_CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
_DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
_USAGES = (ExtendedKeyUsageOID.EMAIL_PROTECTION, _DOCUMENT_SIGNING, _C2PA_CLAIM_SIGNING)
_OF_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_LEAST_RSA_BITS = 2048
_PRIVATE_KEY = b"PRIVATE KEY-----"
_BACKDATED = timedelta(minutes=5)
"""How far certificates begin in the past: clocks of other hosts may be behind."""


@dataclass(frozen=True)
class SigningIdentity:
    """A key that signs manifests, as PEM or where it is in a token, with its certificates.

    The key's own certificate is the first; there is no self-signed one.
    """

    key: bytes | Pkcs11Uri = field(repr=False)
    certificates: tuple[x509.Certificate, ...]
    algorithm: str
    """es256, es384, es512, ps256 or ed25519."""

    @property
    def chain(self) -> bytes:
        """The certificates as PEM."""
        return b"".join(map(_pem, self.certificates))

    @property
    def pem(self) -> bytes:
        """The key, or its URI, and the certificates as PEM."""
        key = self.key.text.encode() + b"\n" if isinstance(self.key, Pkcs11Uri) else self.key
        return key + self.chain

    @property
    def token(self) -> Pkcs11Uri | None:
        """Where the key is, if it is in a token."""
        return self.key if isinstance(self.key, Pkcs11Uri) else None

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate of the key."""
        return self.certificates[0]

    @property
    def expires_at(self) -> datetime:
        """When the first of the certificates expires: what was signed without a time stamp isn't valid from then on."""
        return min(certificate.not_valid_after_utc for certificate in self.certificates)

    @classmethod
    def parse(cls, pem: bytes) -> "SigningIdentity":
        """Parse a PEM file with an unencrypted key, or a PKCS#11 URI, and certificates.

        Raises SigningIdentityError, without the key. A token isn't asked: its certificate is the first that is of a
        signer.
        """
        uri = uri_in(pem)
        if uri is not None and _PRIVATE_KEY in pem:
            raise SigningIdentityError("holds a private key, and the URI of another one (pkcs11:…)")
        private = _key_of(pem) if uri is None else None
        try:
            certificates = parse_certificates(pem)
        except ValueError:
            raise SigningIdentityError(
                "holds no certificate that can be read (-----BEGIN CERTIFICATE-----)"
            ) from None
        public = _signers_key(certificates) if private is None else private.public_key()
        algorithm = _algorithm_of(public)
        chain = _chain_of(public, certificates)
        _check_leaf(chain[0])
        key = _pem_of_key(private) if private is not None else uri
        assert key is not None
        return cls(key, tuple(chain), algorithm)

    @classmethod
    def parse_valid(cls, pem: bytes) -> "SigningIdentity":
        """Parse as `parse` does; raises SigningIdentityError also if a certificate has expired or isn't valid yet.

        Also if packages for tokens are missing; a token isn't asked.
        """
        identity = cls.parse(pem)
        identity.check_dates(datetime.now(UTC))
        if identity.token is not None:
            try:
                require("pkcs11", "its key is in a token, which needs")
            except MissingPackagesError as error:
                raise SigningIdentityError(str(error)) from None
        return identity

    def check_signs(self) -> None:
        """Sign something by a key in a token, and check that by its certificate; does nothing for another key.

        Raises SigningIdentityError: the token isn't there, or its key isn't that of the certificate.
        """
        if self.token is None:
            return
        data = secrets.token_bytes(32)
        try:
            signature = TokenKey(self.token, self.algorithm).sign(data)
            verify_raw_signature(self.leaf.public_key(), self.algorithm, signature, data)
        except SigningError as error:
            raise SigningIdentityError(str(error)) from None
        except InvalidSignature:
            raise SigningIdentityError(
                f"the key in the token isn't that of the certificate of {name_of(self.leaf)}"
            ) from None

    def check_dates(self, now: datetime) -> None:
        """Raise SigningIdentityError if a certificate has expired or isn't valid yet."""
        for certificate in self.certificates:
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if now > ends:
                raise SigningIdentityError(
                    f"the certificate of {name_of(certificate)} expired at {ends:%Y-%m-%d %H:%M} UTC"
                )
            if now < begins:
                raise SigningIdentityError(
                    f"the certificate of {name_of(certificate)} is valid from {begins:%Y-%m-%d %H:%M} UTC on"
                )


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one's own: its certificate and key, as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @classmethod
    def create(cls, organization: str, days: int) -> "Authority":
        """Create an authority that is valid for so many days; `organization` is who signs, for people to read."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(organization, f"{organization} nightmill CA"[:64])
        builder = _builder(name, name, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(_pem(builder.sign(key, hashes.SHA256())), _pem_of_key(key))

    @classmethod
    def of(cls, identity: SigningIdentity, trusted: bytes, key: bytes) -> "Authority":
        """Return the authority that has issued an identity, by its key and certificate; else SigningIdentityError."""
        public = _key_of(key).public_key()
        for certificate in x509.load_pem_x509_certificates(trusted) if trusted.strip() else ():
            if certificate.public_key() == public and _has_issued(certificate, identity.leaf):
                return cls(_pem(certificate), key)
        raise SigningIdentityError("has no certificate of the authority that has issued the identity")

    def issue(self, days: int) -> SigningIdentity:
        """Create a key with a certificate by this authority, valid for so many days but not beyond the authority."""
        issuer = x509.load_pem_x509_certificate(self.certificate)
        authority_key = _key_of(self.key)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        organization = organization_of(issuer)
        builder = _builder(
            _name(organization, f"{organization} nightmill"[:64]),
            issuer.subject,
            key.public_key(),
            days,
            issuer.not_valid_after_utc,
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(usages, critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        builder = builder.add_extension(authority, critical=False)
        return SigningIdentity(_pem_of_key(key), (builder.sign(authority_key, hashes.SHA256()),), "es256")


PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def name_of(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate's subject, or the whole subject."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else certificate.subject.rfc4514_string()


def organization_of(certificate: x509.Certificate) -> str:
    """Return the organization of a certificate's subject, else its name."""
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(found[0].value) if found else name_of(certificate)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def check_authorities(pem: bytes) -> None:
    """Raise SigningIdentityError unless a PEM file holds the certificate of an authority."""
    try:
        found = parse_certificates(pem)
    except ValueError:
        raise SigningIdentityError(
            "holds no certificates that can be read (-----BEGIN CERTIFICATE-----)"
        ) from None
    if not any(map(_is_authority, found)):
        raise SigningIdentityError("holds no certificate of an authority, but those of signers alone")


def authority_of(identity: SigningIdentity, pem: bytes) -> bytes:
    """Return the self-signed certificate in a PEM file that has issued an identity, as PEM; empty if there is none."""
    found = x509.load_pem_x509_certificates(pem)
    last = identity.certificates[-1]
    roots = [
        each for each in found if _is_self_signed(each) and _is_authority(each) and _has_issued(each, last)
    ]
    return b"".join(map(_pem, roots[:1]))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = extensions_of(certificate).get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        return False
    return bool(found.value.ca)


def _key_of(pem: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(_key_block(pem), password=None)
    except TypeError:
        raise SigningIdentityError(
            "its private key is encrypted: store it without a passphrase, mode 0600"
        ) from None
    except (ValueError, x509.UnsupportedGeneralNameType):
        raise SigningIdentityError("its private key can't be read") from None
    if not isinstance(key, PrivateKey):
        raise SigningIdentityError("its private key is of a kind that C2PA doesn't allow")
    return key


def _key_block(pem: bytes) -> bytes:
    """Return the part of the file that is a private key, without what some tools write before it."""
    for block in pem.split(b"-----BEGIN ")[1:]:
        if block.split(b"-----")[0].endswith(b"PRIVATE KEY"):
            return b"-----BEGIN " + block
    raise SigningIdentityError("holds no private key (-----BEGIN PRIVATE KEY-----)")


def _algorithm_of(key: object) -> str:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _OF_CURVES:
            return _OF_CURVES[key.curve.name]
        case ed25519.Ed25519PublicKey():
            return "ed25519"
        case rsa.RSAPublicKey() if key.key_size >= _LEAST_RSA_BITS:
            return "ps256"
    raise SigningIdentityError(
        "its key is none that C2PA allows: P-256, P-384, P-521, Ed25519, or RSA of 2,048 bits or more"
    )


def _signers_key(given: Sequence[x509.Certificate]) -> object:
    """Return the public key of the first certificate that isn't an authority's."""
    for certificate in given:
        if not _is_authority(certificate):
            return certificate.public_key()
    raise SigningIdentityError("holds no certificate of a signer, but those of authorities alone")


def _chain_of(key: object, given: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the key's certificate and its issuers in order, as far as they are given, without a self-signed one."""
    own = [certificate for certificate in given if certificate.public_key() == key]
    if not own:
        raise SigningIdentityError("none of its certificates belongs to its private key")
    if _is_self_signed(own[0]):
        raise SigningIdentityError(
            "its certificate is self-signed, which no reader of C2PA accepts: it must be issued by another one"
        )
    chain = [own[0]]
    while issuer := next((each for each in given if _has_issued(each, chain[-1])), None):
        if _is_self_signed(issuer):
            break
        chain.append(issuer)
    return chain


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return issuer != certificate


def _is_self_signed(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _check_leaf(leaf: x509.Certificate) -> None:
    """Raise SigningIdentityError for what readers of C2PA refuse only once something is signed."""
    try:
        extensions = {extension.oid: extension.value for extension in extensions_of(leaf)}
    except ValueError:
        raise SigningIdentityError(f"the certificate of {name_of(leaf)} can't be read") from None
    usage = extensions.get(x509.KeyUsage.oid)
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature:
        raise SigningIdentityError(f"the certificate of {name_of(leaf)} has no key usage digitalSignature")
    extended = extensions.get(x509.ExtendedKeyUsage.oid)
    if not isinstance(extended, x509.ExtendedKeyUsage) or not set(_USAGES) & set(extended):
        raise SigningIdentityError(
            f"the certificate of {name_of(leaf)} has no extended key usage emailProtection, documentSigning or C2PA "
            "claim signing"
        )
    constraints = extensions.get(x509.BasicConstraints.oid)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        raise SigningIdentityError(f"the certificate of {name_of(leaf)} is of an authority, not of a signer")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    not_after: datetime | None = None,
) -> x509.CertificateBuilder:
    begins = datetime.now(UTC) - _BACKDATED
    ends = begins + timedelta(days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(min(ends, not_after or ends))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(organization: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
