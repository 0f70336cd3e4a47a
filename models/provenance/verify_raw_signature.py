"""Checks signatures of the algorithms that C2PA allows, in the form in which tokens make them."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "es256": hashes.SHA256,
    "es384": hashes.SHA384,
    "es512": hashes.SHA512,
}


def verify_raw_signature(key: object, algorithm: str, signature: bytes, data: bytes) -> None:
    """Raise InvalidSignature unless a signature, of ECDSA as r and s, is of these bytes by a public key."""
    match key:
        case ec.EllipticCurvePublicKey() if algorithm in _HASHES:
            half = len(signature) // 2
            r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(_HASHES[algorithm]()))
        case rsa.RSAPublicKey() if algorithm == "ps256":
            digest = hashes.SHA256()
            key.verify(signature, data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        case ed25519.Ed25519PublicKey() if algorithm == "ed25519":
            key.verify(signature, data)
        case _:
            raise InvalidSignature
