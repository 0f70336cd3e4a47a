"""URIs of keys in tokens (RFC 7512)."""

from pathlib import Path

import pytest

from models.errors import SigningIdentityError
from models.provenance.pkcs11_uri import Pkcs11Uri, uri_in
from models.provenance.signing_identity import SigningIdentity
from tests.models.provenance.signed_files import AUTHORITY, IDENTITY

QUERY = "?module-path=/usr/lib/token.so"


def refused(text: str) -> str:
    with pytest.raises(SigningIdentityError) as caught:
        Pkcs11Uri.parse(text)
    return str(caught.value)


def test_what_a_uri_says() -> None:
    found = Pkcs11Uri.parse(
        "pkcs11:token=My%20token;serial=00ab;object=sign%3B1;id=%01%FF;type=private"
        "?pin-source=file:///run/secrets/my%20pin&module-path=/usr/lib/token.so"
    )
    assert found.token == {"token": "My token", "serial": "00ab"}
    assert (found.object, found.id) == ("sign;1", b"\x01\xff")
    assert (found.module, found.pin_file) == (Path("/usr/lib/token.so"), Path("/run/secrets/my pin"))
    assert found.place == "pkcs11:token=My%20token;serial=00ab;object=sign%3B1;id=%01%FF;type=private"


@pytest.mark.parametrize("source", ["/a/pin", "file:/a/pin", "file:///a/pin", "file://localhost/a/pin"])
def test_the_pin_s_file_may_be_a_path_or_a_url(source: str) -> None:
    assert Pkcs11Uri.parse(f"pkcs11:{QUERY}&pin-source={source}").pin_file == Path("/a/pin")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pkcs11:token=a", "has no module-path"),
        ("pkcs11:token=a?module-path=token.so", "module-path in the URI of its key must be an absolute path"),
        (
            f"pkcs11:token=a{QUERY}&pin-source=|cat",
            "pin-source in the URI of its key must be an absolute path",
        ),
        (f"pkcs11:token=a{QUERY}&pin-source=file://host/pin", "must be an absolute path"),
        (f"pkcs11:token=a;token=b{QUERY}", "has an attribute twice"),
        (f"pkcs11:token{QUERY}", "can't be read"),
        (f"pkcs11:token=a{QUERY};pin-source=/pin", "can't be read"),
        (f"pkcs11:token=a{QUERY}#more", "can't be read"),
        (f"pkcs11:slot-id=3{QUERY}", "has the attribute slot-id, which isn't known here"),
        (f"pkcs11:token=a{QUERY}&module-name=x", "has the attribute module-name, which isn't known here"),
        (f"pkcs11:type=cert{QUERY}", "must be of a private one"),
        (f"pkcs11:token=é{QUERY}", "can't be read"),
    ],
)
def test_what_can_not_be_used_is_said(text: str, reason: str) -> None:
    assert reason in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        f"pkcs11:token=a{QUERY}&pin-value=s3cret",
        f"pkcs11:token=a{QUERY};pin-value=s3cret",
        f"pkcs11:token=a{QUERY}#pin-value=s3cret",
        f"pkcs11:token=a{QUERY}&PIN%2Dvalue=s3cret",
        f"pkcs11:token=a&pin-value=s3cret{QUERY}",
        f"pkcs11:token=a;pin-value=s3cret{QUERY}",
    ],
)
def test_a_pin_in_the_uri_is_refused_and_not_told(text: str) -> None:
    told = refused(text)
    assert "pin-source=file:/" in told
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("content", "pin"), [("1234\n", "1234"), ("12 34\r\nmore", "12 34"), ("Wörter", "Wörter")]
)
def test_the_pin_is_the_first_line(tmp_path: Path, content: str, pin: str) -> None:
    (tmp_path / "pin").write_text(content, encoding="utf-8", newline="")
    assert Pkcs11Uri.parse(f"pkcs11:{QUERY}&pin-source={tmp_path}/pin").read_pin() == pin
    assert Pkcs11Uri.parse(f"pkcs11:{QUERY}").read_pin() is None


@pytest.mark.parametrize("content", [b"", b"\n1234", b"\xff\xfe", b"1" * 300])
def test_what_is_no_pin_is_not_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pin").write_bytes(content)
    with pytest.raises(SigningIdentityError, match="is no PIN") as caught:
        Pkcs11Uri.parse(f"pkcs11:{QUERY}&pin-source={tmp_path}/pin").read_pin()
    assert str(caught.value) == f"the first line of {tmp_path}/pin is no PIN"


def test_an_identity_has_a_key_or_a_uri() -> None:
    uri = f"pkcs11:token=a;object=b{QUERY}"
    found = SigningIdentity.parse(uri.encode() + b"\r\n" + AUTHORITY.certificate + IDENTITY.chain)
    assert found.token is not None
    assert (found.token.text, found.leaf, found.algorithm) == (uri, IDENTITY.leaf, "es256")
    assert SigningIdentity.parse(found.pem) == found
    assert uri_in(IDENTITY.pem) is None
    for text, reason in (
        (uri.encode() + b"\n" + IDENTITY.pem, "the URI of another one"),
        (uri.encode() + b"\n" + uri.encode() + b"\n" + IDENTITY.chain, "several URIs"),
        (uri.encode() + b"\n" + AUTHORITY.certificate, "holds no certificate of a signer"),
        (uri.encode() + b"\n", "holds no certificate that can be read"),
    ):
        with pytest.raises(SigningIdentityError, match=reason):
            SigningIdentity.parse(text)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.optional_packages._is_there", lambda name: name != "pkcs11")
    text = f"pkcs11:token=a;object=b{QUERY}\n".encode() + IDENTITY.chain
    with pytest.raises(SigningIdentityError, match=r"pip install 'nightmill\[pkcs11\]'"):
        SigningIdentity.parse_valid(text)
    SigningIdentity.parse_valid(IDENTITY.pem)
