"""Files whose manifest names an issuer of identities by did:web, who would be asked over HTTPS."""

import io
import json
import struct
from base64 import b64encode
from typing import Any

import c2pa

from models.provenance.image_claim import SourceType
from tests.models.provenance.signed_files import IDENTITY, file

_KIND = "cawg.identity_claims_aggregation"
_REFERENCED = {"url": "self#jumbf=c2pa.assertions/c2pa.hash.data", "hash": [7] * 32}


def file_that_names_an_issuer(host: str, port: int) -> bytes:
    """A signed PNG with a `cawg.identity` assertion by an issuer at this host."""
    actions = [{"action": "c2pa.created", "digitalSourceType": SourceType.GENERATED}]
    identity = {
        "signer_payload": {"referenced_assertions": [_REFERENCED], "sig_type": _KIND},
        "signature": list(_signature(json.dumps(_credential(f"did:web:{host}%3A{port}")).encode())),
        "pad1": [0] * 8,
    }
    manifest = {
        "claim_generator_info": [{"name": "x", "version": "1"}],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": "cawg.identity", "data": identity},
        ],
    }
    info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=IDENTITY.chain, private_key=IDENTITY.key, ta_url=None)
    config = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
    out = io.BytesIO()
    context = c2pa.Context.from_dict(config, c2pa.Signer.from_info(info))
    c2pa.Builder(manifest, context).sign("image/png", io.BytesIO(file()), out)
    return out.getvalue()


def _credential(issuer: str) -> dict[str, Any]:
    digest = b64encode(bytes(_REFERENCED["hash"])).decode()  # type: ignore[arg-type]
    referenced = {"referenced_assertions": [_REFERENCED | {"hash": digest}], "sig_type": _KIND}
    who = {
        "type": "cawg.social_media",
        "username": "x",
        "uri": "https://x",
        "verifiedAt": "2025-01-01T00:00:00Z",
    }
    identities = [who | {"provider": {"id": "https://x", "name": "x"}}]
    return {
        "@context": ["https://www.w3.org/ns/credentials/v2", "https://cawg.io/identity/1.1/ica/context/"],
        "type": ["VerifiableCredential", "IdentityClaimsAggregationCredential"],
        "issuer": issuer,
        "validFrom": "2025-01-01T00:00:00Z",
        "credentialSubject": {"verifiedIdentities": identities, "c2paAsset": referenced},
    }


def _signature(payload: bytes) -> bytes:
    """A COSE_Sign1 structure (RFC 9052, 4.2) with a signature that isn't one."""
    return b"\xd2" + _cbor([_cbor({1: -8, 3: "application/vc"}), {}, payload, b"\1" * 64])


def _cbor(value: object) -> bytes:
    """Encode as RFC 8949 has it, as far as it is needed here."""
    match value:
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case list():
            return _head(4, len(value)) + b"".join(map(_cbor, value))
        case dict():
            return _head(5, len(value)) + b"".join(_cbor(key) + _cbor(item) for key, item in value.items())
    raise TypeError(type(value))


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    form, code = next(
        (form, code) for form, code, most in ((">B", 24, 256), (">H", 25, 65536)) if number < most
    )
    return bytes([kind << 5 | code]) + struct.pack(form, number)
