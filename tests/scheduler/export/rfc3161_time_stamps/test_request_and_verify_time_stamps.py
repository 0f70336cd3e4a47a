"""Time stamps of an authority: asked for over HTTP, checked before they are accepted."""

import hashlib
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobs.errors import UsageError
from jobs.settings import load_settings
from scheduler.export.rfc3161_time_stamps.authority_client import LONGEST_ANSWER, TimeStampAuthority
from scheduler.export.rfc3161_time_stamps.errors import TimeStampError, UntrustedAuthorityError
from scheduler.export.rfc3161_time_stamps.request_and_verify_token import check_response, new_request
from tests.receiver import receiving
from tests.scheduler.export.rfc3161_time_stamps.authority_server import (
    Authority,
    Served,
    hang,
    make_authority,
    make_certificate,
    needs_openssl,
    serving,
)

pytestmark = needs_openssl

TEXT = b"what is stamped"
DIGEST = hashlib.sha256(TEXT).hexdigest()
OTHER = hashlib.sha256(b"something else").hexdigest()


def asked(served: Served, **options: Any) -> TimeStampAuthority:
    return TimeStampAuthority(served.url, [served.authority.trusted], **options)


def refused(served: Served, **options: Any) -> str:
    """Why a time stamp isn't accepted."""
    with pytest.raises(TimeStampError) as caught:
        asked(served, **options).stamp(DIGEST)
    return str(caught.value)


@pytest.mark.parametrize("chain", [True, False])
@pytest.mark.parametrize("is_rsa", [True, False])
def test_a_stamp_is_what_openssl_takes_too(tmp_path: Path, chain: bool, is_rsa: bool) -> None:
    authority = make_authority(tmp_path / "tsa", chain=chain, is_rsa=is_rsa)
    with serving(authority) as served:
        stamp = asked(served).stamp(DIGEST)
        assert TimeStampAuthority(served.url).stamp(DIGEST).authority == stamp.authority == "CN=Time"
    (tmp_path / "text").write_bytes(TEXT)
    (tmp_path / "stamp.tsr").write_bytes(stamp.response)
    command = ["openssl", "ts", "-verify", "-data", "text", "-in", "stamp.tsr", "-CAfile", "tsa/trusted.pem"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Verification: OK" in ended.stdout, ended.stderr
    assert (
        stamp.time
        == tsp.TimeStampResp.load(stamp.response)["time_stamp_token"]["content"]["encap_content_info"][
            "content"
        ]
        .parsed["gen_time"]
        .native
    )


def test_the_request_is_as_the_standard_says(served: Served) -> None:
    asked(served).stamp(DIGEST)
    ((headers, body),) = served.receiver.requests
    assert headers["content-type"] == "application/timestamp-query"
    assert "authorization" not in headers
    request = tsp.TimeStampReq.load(body, strict=True).native
    assert request["message_imprint"]["hashed_message"].hex() == DIGEST
    assert (request["version"], request["cert_req"]) == ("v1", True)
    asked(served).stamp(DIGEST)
    nonces = {tsp.TimeStampReq.load(body).native["nonce"] for _, body in served.receiver.requests}
    assert len(nonces) == 2


def test_an_answer_of_other_data_is_refused(served: Served, own: Authority) -> None:
    def other(_: bytes) -> bytes:
        query = tsp.TimeStampReq.load(served.receiver.requests[-1][1])
        query["message_imprint"]["hashed_message"] = bytes.fromhex(OTHER)
        return own.reply(query.dump(force=True))

    served.change = other
    assert "it is of other data: its digest is another one" in refused(served)


def test_an_answer_to_another_request_is_refused(served: Served, own: Authority) -> None:
    earlier = own.reply(new_request(DIGEST).body)
    served.change = lambda _: earlier
    assert "its nonce is another one" in refused(served)
    without = tsp.TimeStampReq.load(new_request(DIGEST).body)
    del without["nonce"]
    served.change = lambda _: own.reply(without.dump(force=True))
    assert "its nonce is another one" in refused(served)


def test_a_refusal_is_told_with_the_authoritys_reason(served: Served, own: Authority) -> None:
    query = tsp.TimeStampReq.load(new_request(DIGEST).body)
    query["req_policy"] = "1.2.3.99"
    served.change = lambda _: own.reply(query.dump(force=True))
    told = refused(served)
    assert "the authority refuses: rejection" in told
    assert "policy" in told


def test_garbage_is_refused(served: Served) -> None:
    for garbage in (b"", b"<html>", b"\x30\x80", b"\x30\x03\x30\x01\x00", bytes(1000)):
        served.change = lambda _, garbage=garbage: garbage
        assert "the answer of the time-stamping authority 127.0.0.1: " in refused(served)
    served.change, served.content_type = (lambda body: body), "text/html; charset=utf-8"
    assert "answers with 'text/html', not application/timestamp-reply" in refused(served)
    served.change = lambda _: bytes(LONGEST_ANSWER + 1)
    assert "its answer has more than 65,536 bytes" in refused(served)


def test_an_answer_that_is_cut_off_is_refused(own: Authority) -> None:
    request = new_request(DIGEST)
    good = own.reply(request.body)
    for length in range(0, len(good), 7):
        with pytest.raises(TimeStampError):
            check_response(good[:length], DIGEST, [own.trusted], request.nonce)


def test_a_changed_signature_or_content_is_refused(own: Authority) -> None:
    request = new_request(DIGEST)
    good = own.reply(request.body)
    answer = tsp.TimeStampResp.load(good)
    token = answer["time_stamp_token"]["content"]
    signature = token["signer_infos"][0]["signature"].native
    changed = good.replace(signature, bytes([*signature[:-1], signature[-1] ^ 1]))
    assert changed != good
    with pytest.raises(TimeStampError, match="its signature is wrong"):
        check_response(changed, DIGEST, (), request.nonce)
    moved = good.replace(bytes.fromhex(DIGEST), bytes.fromhex(OTHER))
    with pytest.raises(TimeStampError, match="its signature is of something else"):
        check_response(moved, OTHER, (), request.nonce)


def signed_by(
    response: bytes,
    key: ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    *issuers: x509.Certificate,
) -> bytes:
    """The answer, as if it was made by whoever has this certificate; it holds those of the issuers, too."""
    answer, der = tsp.TimeStampResp.load(response), certificate.public_bytes(Encoding.DER)
    token = answer["time_stamp_token"]["content"]
    held = [der, *(issuer.public_bytes(Encoding.DER) for issuer in issuers)]
    token["certificates"] = [asn1_x509.Certificate.load(each) for each in held]
    info = token["signer_infos"][0]
    for attribute in info["signed_attrs"]:
        if attribute["type"].native == "signing_certificate_v2":
            attribute["values"][0]["certs"][0]["cert_hash"] = hashlib.sha256(der).digest()
    signed = info["signed_attrs"].untag().dump(force=True)
    info["signature"] = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return answer.dump(force=True)


@pytest.mark.parametrize(
    ("usages", "is_critical", "reason"),
    [
        ([ExtendedKeyUsageOID.TIME_STAMPING], True, None),
        ([ExtendedKeyUsageOID.TIME_STAMPING], False, "isn't for time stamps alone"),
        ([ExtendedKeyUsageOID.EMAIL_PROTECTION], True, "isn't for time stamps alone"),
        (
            [ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.EMAIL_PROTECTION],
            True,
            "isn't for time stamps alone",
        ),
        ([], True, "isn't for time stamps"),
    ],
)
def test_a_signer_of_other_things_makes_no_time_stamps(
    own: Authority, usages: list[x509.ObjectIdentifier], is_critical: bool, reason: str | None
) -> None:
    request, key = new_request(DIGEST), ec.generate_private_key(ec.SECP256R1())
    certificate = make_certificate("Other", key, None, key, usages, is_critical=is_critical)
    response = signed_by(own.reply(request.body), key, certificate)
    if reason is None:
        assert check_response(response, DIGEST, [certificate], request.nonce).authority == "CN=Other"
        return
    with pytest.raises(TimeStampError, match=f"the certificate of CN=Other {reason}"):
        check_response(response, DIGEST, [certificate], request.nonce)


@pytest.mark.parametrize(
    ("root", "between", "is_trusted"),
    [
        ({}, {}, True),
        ({"may_issue": True, "path_length": 1}, {"may_issue": True, "path_length": 0}, True),
        ({}, {"may_issue": False}, False),
        ({"may_issue": False}, {}, False),
        ({"path_length": 0}, {}, False),
    ],
)
def test_issuers_must_be_allowed_to_issue(
    own: Authority, root: dict[str, Any], between: dict[str, Any], is_trusted: bool
) -> None:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    trusted = make_certificate("Root", keys[0], None, keys[0], **root)
    issuer = make_certificate("Between", keys[1], trusted, keys[0], **between)
    signer = make_certificate("Other", keys[2], issuer, keys[1], [ExtendedKeyUsageOID.TIME_STAMPING])
    response = signed_by(own.reply(new_request(DIGEST).body), keys[2], signer, issuer)
    if is_trusted:
        assert check_response(response, DIGEST, [trusted]).authority == "CN=Other"
        return
    with pytest.raises(UntrustedAuthorityError, match="or by one that may issue none"):
        check_response(response, DIGEST, [trusted])


def test_a_signature_by_another_key_is_refused(own: Authority) -> None:
    request, keys = new_request(DIGEST), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    usages = [ExtendedKeyUsageOID.TIME_STAMPING]
    certificate = make_certificate("Other", keys[0], None, keys[0], usages)
    with pytest.raises(TimeStampError, match="its signature is wrong"):
        check_response(signed_by(own.reply(request.body), keys[1], certificate), DIGEST)


def test_an_answer_that_takes_too_long_is_given_up(own: Authority) -> None:
    with serving(own) as served:
        served.receiver.answer = hang(served.receiver)
        assert "no answer within 0.3 s" in refused(served, timeout_s=0.3)


def test_redirects_are_not_followed(served: Served) -> None:
    with receiving() as elsewhere:

        def redirect(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("location", elsewhere.url)
            handler.send_header("content-length", "0")
            handler.end_headers()

        served.receiver.answer = redirect
        assert "answers with status 302; NIGHTMILL_TIMESTAMP_URL must name where it leads" in refused(served)
        assert elsewhere.requests == []


@pytest.mark.parametrize("days", [(-10, -1), (1, 10)])
def test_a_certificate_must_be_valid_at_the_time(tmp_path: Path, days: tuple[int, int]) -> None:
    with serving(make_authority(tmp_path / "tsa", days=days)) as served:
        reason = "the certificate of CN=Time wasn't valid at"
        assert reason in refused(served)
        with pytest.raises(TimeStampError, match=reason):
            TimeStampAuthority(served.url).stamp(DIGEST)


def test_a_certificate_must_be_by_one_that_is_trusted(tmp_path: Path, own: Authority, served: Served) -> None:
    other = make_authority(tmp_path / "tsa")
    with pytest.raises(TimeStampError, match="CN=Time isn't an authority that is trusted here"):
        TimeStampAuthority(served.url, [other.trusted]).stamp(DIGEST)
    request = new_request(DIGEST)
    with pytest.raises(UntrustedAuthorityError):
        check_response(other.reply(request.body), DIGEST, [own.trusted])


def test_an_authority_that_failed_is_left_alone_for_a_while(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(
        "scheduler.export.rfc3161_time_stamps.authority_client.time.monotonic", lambda: clock[0]
    )
    authority = asked(served)
    served.is_away = True
    for pause in (30, 60, 300, 900, 3600, 3600):
        assert authority.is_ready
        with pytest.raises(TimeStampError, match="answers with status 503"):
            authority.stamp(DIGEST)
        clock[0] += pause - 1
        assert not authority.is_ready
        clock[0] += 1
    assert len(served.receiver.requests) == 2 * 6
    served.is_away = False
    authority.stamp(DIGEST)
    assert authority.is_ready
    assert authority.last_error is None


def test_credentials_are_sent_and_never_told(served: Served) -> None:
    url = served.url.replace("http://", "http://ada:s%3Asecret@")
    TimeStampAuthority(url).stamp(DIGEST)
    assert served.receiver.requests[-1][0]["authorization"] == "Basic YWRhOnM6c2VjcmV0"
    served.is_away = True
    with pytest.raises(TimeStampError) as caught:
        TimeStampAuthority(url).stamp(DIGEST)
    assert "secret" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://tsa.example", "must be http://…, https://…, not ftp://…"),
        ("tsa.example", "is not a URL"),
        ("http://:s3cret@", "the host is missing"),
        ("https://ada:s3cret@tsa.example:0/", "the port must be"),
    ],
)
def test_a_wrong_url_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.setenv("NIGHTMILL_TIMESTAMP_URL", url)
    with pytest.raises(UsageError, match="NIGHTMILL_TIMESTAMP_URL: ") as caught:
        load_settings()
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_trusted_certificates_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: Authority
) -> None:
    monkeypatch.setenv("NIGHTMILL_TIMESTAMP_URL", "https://timestamp.example?td=sha256")
    file = tmp_path / "trusted.pem"
    monkeypatch.setenv("NIGHTMILL_TIMESTAMP_TRUST", str(file))
    for body, reason in ((None, "can't be read"), (b"no", "holds no certificates that can be read")):
        if body is not None:
            file.write_bytes(body)
        with pytest.raises(UsageError, match=reason):
            TimeStampAuthority.of_settings(load_settings())
    file.write_bytes(own.trust_file.read_bytes())
    assert TimeStampAuthority.of_settings(load_settings()) is not None


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_TIMESTAMP_URL", "https://timestamp.example")
    monkeypatch.setattr("models.optional_packages._is_there", lambda name: name != "asn1crypto")
    with pytest.raises(UsageError, match=r"pip install 'nightmill\[timestamps\]'"):
        TimeStampAuthority.of_settings(load_settings())
