"""Whatever a broken or hostile authority answers is a TimeStampError, and never another time."""

import base64
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto import tsp
from asn1crypto import x509 as asn1_x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobs.errors import UsageError
from models.errors import SigningIdentityError
from models.provenance.signing_identity import check_authorities
from scheduler.export.rfc3161_time_stamps.errors import TimeStampError
from scheduler.export.rfc3161_time_stamps.load_trusted_certificates import read_certificates
from scheduler.export.rfc3161_time_stamps.request_and_verify_token import check_response, new_request
from tests.scheduler.export.rfc3161_time_stamps.authority_server import (
    Authority,
    make_certificate,
    needs_openssl,
)

pytestmark = needs_openssl

DIGEST = hashlib.sha256(b"what is stamped").hexdigest()
TAGS = (0, 1, 2, 3, 4, 5, 6, 12, 19, 22, 23, 24, 30, 48, 49, 127, 128, 132, 160, 163, 255)
"""Of ASN.1, and lengths and values that are at an edge."""
VERSION_3, VERSION_7 = bytes.fromhex("a003020102"), bytes.fromhex("a003020106")
CONSTRAINTS, USAGE = bytes.fromhex("0603551d13"), bytes.fromhex("0603551d25")
"""The names of two extensions of a certificate."""


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The same with one to four other bytes, of the same length."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, length = chance.randrange(len(changed)), chance.randrange(1, 9)
        match chance.randrange(3):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at] = chance.choice(TAGS)
            case 2:
                start = chance.randrange(len(changed) - length)
                changed[at : at + length] = changed[start : start + length]
    return bytes(changed[: len(content)])


class HostileAuthority:
    """Signs tokens, with a key of its own, that hold any bytes in the place of its certificate."""

    def __init__(self, honest: Authority) -> None:
        self.key = ed25519.Ed25519PrivateKey.generate()
        issuer_key = ec.generate_private_key(ec.SECP256R1())
        issuer = make_certificate("Root", issuer_key, None, issuer_key)
        usages = [ExtendedKeyUsageOID.TIME_STAMPING]
        self.certificate = make_certificate("Time", self.key, issuer, issuer_key, usages).public_bytes(
            Encoding.DER
        )
        self.digest = hashlib.sha256(self.certificate).digest()
        answer = tsp.TimeStampResp.load(honest.reply(new_request(DIGEST).body))
        token = answer["time_stamp_token"]["content"]
        token["certificates"] = [asn1_x509.Certificate.load(self.certificate)]
        info = token["signer_infos"][0]
        for attribute in info["signed_attrs"]:
            if attribute["type"].native == "signing_certificate_v2":
                attribute["values"][0]["certs"][0]["cert_hash"] = self.digest
        self.signed = info["signed_attrs"].untag().dump(force=True)
        self.signature = self.key.sign(self.signed)
        info["signature_algorithm"] = {"algorithm": "ed25519"}
        info["signature"] = self.signature
        self.token = answer.dump(force=True)

    def reply(self, certificate: bytes) -> bytes:
        """The answer with these bytes, as many as those of the certificate are, signed so that they fit."""
        assert len(certificate) == len(self.certificate)
        digest = hashlib.sha256(certificate).digest()
        signature = self.key.sign(self.signed.replace(self.digest, digest))
        answer = self.token.replace(self.certificate, certificate).replace(self.digest, digest)
        return answer.replace(self.signature, signature)


@pytest.fixture(scope="module")
def hostile(own: Authority) -> HostileAuthority:
    return HostileAuthority(own)


def test_a_token_with_changed_bytes_is_refused_or_says_the_same(own: Authority) -> None:
    good, chance = own.reply(new_request(DIGEST).body), random.Random(0)
    time = check_response(good, DIGEST, [own.trusted]).time
    accepted = 0
    for _ in range(2000):
        changed = mutated(good, chance)
        try:
            assert check_response(changed, DIGEST, [own.trusted]).time == time
            accepted += 1
        except TimeStampError:
            continue
    assert accepted < 500


@pytest.mark.filterwarnings("ignore")
def test_a_certificate_of_any_bytes_is_refused_or_taken(hostile: HostileAuthority) -> None:
    chance = random.Random(0)
    trusted = [make_certificate("Root", key := ec.generate_private_key(ec.SECP256R1()), None, key)]
    assert check_response(hostile.reply(hostile.certificate), DIGEST).authority == "CN=Time"
    errors: set[str] = set()
    for _ in range(1000):
        answer = hostile.reply(mutated(hostile.certificate, chance))
        for authorities in ([], trusted):
            try:
                check_response(answer, DIGEST, authorities)
            except TimeStampError as error:
                errors.add(str(error))
    assert any("can't be read" in each for each in errors)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda body: body.replace(VERSION_3, VERSION_7), "doesn't hold the certificate"),
        (lambda body: body.replace(CONSTRAINTS, USAGE), r"can't be read \(DuplicateExtension\)"),
    ],
)
def test_a_certificate_that_is_none_is_told(
    hostile: HostileAuthority, change: Callable[[bytes], bytes], reason: str
) -> None:
    changed = change(hostile.certificate)
    assert changed != hostile.certificate
    with pytest.raises(TimeStampError, match=reason):
        check_response(hostile.reply(changed), DIGEST)


@pytest.mark.parametrize("change", [(VERSION_3, VERSION_7), (CONSTRAINTS, USAGE)])
def test_trusted_certificates_that_can_not_be_read_are_told(
    tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = make_certificate("Root", key, None, key, [ExtendedKeyUsageOID.TIME_STAMPING])
    changed = base64.encodebytes(certificate.public_bytes(Encoding.DER).replace(*change))
    file = tmp_path / "trusted.pem"
    file.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + changed + b"-----END CERTIFICATE-----\n")
    with pytest.raises(SigningIdentityError, match="holds no certificate"):
        check_authorities(file.read_bytes())
    if change[1] == VERSION_7:  # extensions are read only when something is checked
        with pytest.raises(UsageError, match=f"--trust {file}: holds no certificates that can be read"):
            read_certificates(file, f"--trust {file}")
