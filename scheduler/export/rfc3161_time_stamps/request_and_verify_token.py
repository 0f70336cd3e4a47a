"""Requests to time-stamping authorities, and the check of what they answer (RFC 3161, RFC 5816, RFC 5652).

What is accepted is signed with RSA, ECDSA or Ed25519 over SHA-256 or longer. Whether a certificate was revoked isn't
asked: that would need a connection.
"""

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asn1crypto import algos, cms, core, tsp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from jobs.exports.shard_rfc3161_time_stamps import TimeStamp
from scheduler.export.rfc3161_time_stamps.errors import TimeStampError, UntrustedAuthorityError

_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_GRANTED = ("granted", "granted_with_mods")
_NONCE_BITS = 64


class _Response(core.Sequence):  # type: ignore[misc]
    """TimeStampResp; in asn1crypto's, a refusal can't be read, as it has no token."""

    _fields = [  # noqa: RUF012 - asn1crypto's form
        ("status", tsp.PKIStatusInfo),
        ("time_stamp_token", cms.ContentInfo, {"optional": True}),
    ]


@dataclass(frozen=True)
class TimeStampRequest:
    """A request: the nonce that its answer must have, and the TimeStampReq in DER."""

    nonce: int
    body: bytes


def new_request(sha256: str) -> TimeStampRequest:
    """Make a request for a time stamp of a SHA-256 digest, given in hex; the answer is to hold the certificates."""
    nonce = secrets.randbits(_NONCE_BITS) | 1 << (_NONCE_BITS - 1)  # all of the same length
    request = tsp.TimeStampReq(
        {
            "version": "v1",
            "message_imprint": {
                "hash_algorithm": {"algorithm": "sha256"},
                "hashed_message": bytes.fromhex(sha256),
            },
            "nonce": nonce,
            "cert_req": True,
        }
    )
    return TimeStampRequest(nonce, request.dump())


def check_response(
    response: bytes, sha256: str, trusted: Sequence[x509.Certificate] = (), nonce: int | None = None
) -> TimeStamp:
    """Check an authority's answer (TimeStampResp in DER) and return the time stamp.

    `sha256`: hex digest that it must be of. `trusted`: certificates of authorities, one of which must have issued the
    signer's, or be it; none: any signer's certificate will do. `nonce`: that of the request. Raises TimeStampError,
    UntrustedAuthorityError if all but the trust is right.
    """
    try:
        return _checked(response, sha256, trusted, nonce)
    except TimeStampError:
        raise
    # What isn't built as it should be raises errors of a dozen kinds, of no common one.
    except Exception as error:
        raise TimeStampError(f"it can't be read ({type(error).__name__})") from None


def _checked(
    response: bytes, sha256: str, trusted: Sequence[x509.Certificate], nonce: int | None
) -> TimeStamp:
    answer = _Response.load(response, strict=True)
    _check_status(answer["status"])
    token = _signed_data(answer["time_stamp_token"])
    content = token["encap_content_info"]
    if content["content_type"].native != "tst_info":
        raise TimeStampError("it isn't a time stamp token")
    info = content["content"].parsed
    _check_info(info, sha256, nonce)
    time = info["gen_time"].native
    certificates = _certificates(token)
    signer = _check_signature(token, content["content"], certificates)
    _check_certificate(signer, time)
    if trusted:
        _check_chain(signer, certificates, trusted, time)
    return TimeStamp(sha256, time, signer.subject.rfc4514_string(), response)


def _check_status(status: Any) -> None:
    found = status["status"].native
    if found not in _GRANTED:
        texts = [str(text) for text in status["status_string"].native or ()]
        reasons = sorted(status["fail_info"].native or ())
        told = "; ".join([*texts, *reasons])[:200]
        raise TimeStampError(f"the authority refuses: {found}{f' ({told})' if told else ''}")


def _signed_data(token: Any) -> Any:
    if not isinstance(token, cms.ContentInfo) or token["content_type"].native != "signed_data":
        raise TimeStampError("it holds no time stamp token")
    return token["content"]


def _check_info(info: Any, sha256: str, nonce: int | None) -> None:
    imprint = info["message_imprint"]
    if imprint["hash_algorithm"]["algorithm"].native != "sha256":
        raise TimeStampError("it is of a digest that isn't SHA-256")
    if imprint["hashed_message"].native != bytes.fromhex(sha256):
        raise TimeStampError("it is of other data: its digest is another one")
    if nonce is not None and info["nonce"].native != nonce:
        raise TimeStampError("it isn't the answer to this request: its nonce is another one")


def _certificates(token: Any) -> list[x509.Certificate]:
    """Return the X.509 certificates in a token, without what can't be read, which nothing depends on then."""
    found = []
    for choice in token["certificates"] if token["certificates"] else ():
        if choice.name == "certificate":
            with suppress(Exception):  # InvalidVersion, say, is no ValueError
                found.append(x509.load_der_x509_certificate(choice.chosen.dump()))
    return found


def _check_signature(token: Any, content: Any, certificates: Sequence[x509.Certificate]) -> x509.Certificate:
    """Check the token's signature over its content; returns the certificate of the signer, which the token holds."""
    (info,) = token["signer_infos"]
    digest_name = info["digest_algorithm"]["algorithm"].native
    attributes = {each["type"].native: each["values"] for each in info["signed_attrs"]}
    digest = hashes.Hash(_hash(digest_name))
    digest.update(bytes(content))
    if attributes["content_type"][0].native != "tst_info":
        raise TimeStampError("what is signed isn't a time stamp")
    if attributes["message_digest"][0].native != digest.finalize():
        raise TimeStampError("its signature is of something else")
    signer = _named_certificate(attributes, certificates)
    try:
        _verify(
            signer.public_key(),
            info["signature"].native,
            info["signed_attrs"].untag().dump(),
            info["signature_algorithm"],
            digest_name,
        )
    except InvalidSignature:
        raise TimeStampError("its signature is wrong") from None
    return signer


def _named_certificate(attributes: Any, certificates: Sequence[x509.Certificate]) -> x509.Certificate:
    """Return the certificate whose digest is among what is signed (ESSCertID)."""
    if "signing_certificate_v2" in attributes:
        id_ = attributes["signing_certificate_v2"][0]["certs"][0]
        algorithm = _hash(id_["hash_algorithm"]["algorithm"].native)
    else:
        id_ = attributes["signing_certificate"][0]["certs"][0]
        algorithm = hashes.SHA1()  # noqa: S303 - RFC 3161 has no other; it names a certificate and signs nothing
    for certificate in certificates:
        if certificate.fingerprint(algorithm) == id_["cert_hash"].native:
            return certificate
    raise TimeStampError("it doesn't hold the certificate that it was signed with")


def _verify(
    key: object, signature: bytes, signed: bytes, algorithm: algos.SignedDigestAlgorithm, digest_name: str
) -> None:
    kind = algorithm.signature_algo
    with_digest = algorithm["algorithm"].native not in ("rsassa_pkcs1v15", "ed25519")
    digest = _hash(algorithm.hash_algo if with_digest else digest_name)
    match key:
        case rsa.RSAPublicKey() if kind == "rsassa_pkcs1v15":
            key.verify(signature, signed, padding.PKCS1v15(), digest)
        case rsa.RSAPublicKey() if kind == "rsassa_pss":
            salt = algorithm["parameters"]["salt_length"].native
            key.verify(signature, signed, padding.PSS(padding.MGF1(digest), salt), digest)
        case ec.EllipticCurvePublicKey() if kind == "ecdsa":
            key.verify(signature, signed, ec.ECDSA(digest))
        case ed25519.Ed25519PublicKey() if kind == "ed25519":
            key.verify(signature, signed)
        case _:
            raise TimeStampError(f"it is signed by {kind}, which isn't known here")


def _hash(name: str) -> hashes.HashAlgorithm:
    if name not in _HASHES:
        raise TimeStampError(f"it is signed over {name}, which is no digest to rely on")
    return _HASHES[name]()


def _check_certificate(signer: x509.Certificate, time: datetime) -> None:
    """Check that a certificate is for time stamps and nothing else, and was valid at the time."""
    name = signer.subject.rfc4514_string()
    try:
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, ValueError):
        raise TimeStampError(f"the certificate of {name} isn't for time stamps") from None
    if not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise TimeStampError(f"the certificate of {name} isn't for time stamps alone")
    if not signer.not_valid_before_utc <= time <= signer.not_valid_after_utc:
        raise TimeStampError(
            f"the certificate of {name} wasn't valid at {time:%Y-%m-%d %H:%M} UTC: it is from "
            f"{signer.not_valid_before_utc:%Y-%m-%d %H:%M} to {signer.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        )


def _check_chain(
    signer: x509.Certificate,
    given: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    time: datetime,
) -> None:
    authorities = ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, Criticality.AGNOSTIC, None
    )
    authorities = authorities.may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _require_signs_certificates)
    policy = PolicyBuilder().store(Store(list(trusted))).time(time)
    policy = policy.extension_policies(ca_policy=authorities, ee_policy=ExtensionPolicy.permit_all())
    others = [certificate for certificate in given if certificate != signer]
    try:
        policy.build_client_verifier().verify(signer, others)
    except VerificationError:
        raise UntrustedAuthorityError(
            f"{signer.subject.rfc4514_string()} isn't an authority that is trusted here, or its certificates weren't "
            f"valid at {time:%Y-%m-%d %H:%M} UTC, or by one that may issue none"
        ) from None


def _require_signs_certificates(_: Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the key of an issuer isn't for certificates")
