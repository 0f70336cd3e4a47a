"""A time-stamping authority of the tests' own: OpenSSL's, behind an HTTP server."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import SecretStr

from jobs.settings import Settings
from tests.receiver import Receiver, receiving

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
_CONFIGURATION = """
[tsa]
default_tsa = own
[own]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


@dataclass
class Authority:
    """A certificate authority and the time-stamping authority that it has issued a certificate for."""

    folder: Path
    trusted: x509.Certificate
    chain: bool = False

    def reply(self, query: bytes) -> bytes:
        """The answer to a request."""
        (self.folder / "query").write_bytes(query)
        options = ["-chain", "chain.pem"] if self.chain else []
        command = ["openssl", "ts", "-reply", "-config", "configuration", "-queryfile", "query"]
        command += ["-signer", "signer.pem", "-inkey", "key.pem", *options, "-out", "reply"]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        return (self.folder / "reply").read_bytes()

    @property
    def trust_file(self) -> Path:
        """The certificate of the authority that is to be trusted, as PEM."""
        return self.folder / "trusted.pem"


def make_authority(
    folder: Path,
    *,
    chain: bool = False,
    is_rsa: bool = False,
    days: tuple[int, int] = (-1, 10),
) -> Authority:
    """Make one in an empty folder; `chain`: with one in between. `days`: its own certificate's, from now."""
    folder.mkdir()
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = make_certificate("Root", root_key, None, root_key)
    issuer, issuer_key = root, root_key
    if chain:
        issuer_key = ec.generate_private_key(ec.SECP256R1())
        issuer = make_certificate("Between", issuer_key, root, root_key)
        (folder / "chain.pem").write_bytes(issuer.public_bytes(Encoding.PEM))
    key: Key = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
    signer = make_certificate("Time", key, issuer, issuer_key, [ExtendedKeyUsageOID.TIME_STAMPING], days)
    (folder / "signer.pem").write_bytes(signer.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    (folder / "trusted.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "serial").write_text("01\n")
    (folder / "configuration").write_text(_CONFIGURATION)
    return Authority(folder, root, chain)


def make_certificate(
    name: str,
    key: Key,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    usages: Sequence[x509.ObjectIdentifier] = (),
    days: tuple[int, int] = (-1, 10),
    *,
    is_critical: bool = True,
    path_length: int | None = None,
    may_issue: bool | None = None,
) -> x509.Certificate:
    """Make a certificate by an issuer, or a self-signed one; without usages that of an authority.

    `may_issue`: whether its key usage is for certificates, or for other things; None: it has no such extension.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) + timedelta(days[0]))
        .not_valid_after(datetime.now(UTC) + timedelta(days[1]))
        .add_extension(x509.BasicConstraints(ca=not usages, path_length=path_length), critical=True)
    )
    if may_issue is not None:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=may_issue,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=is_critical)
    return builder.sign(issuer_key, hashes.SHA256())


@dataclass
class Served:
    """An authority at a URL. `is_away`: it answers with 503. `change`: what is done with its answers."""

    authority: Authority
    receiver: Receiver
    is_away: bool = False
    change: Callable[[bytes], bytes] = field(default=lambda body: body)
    content_type: str = "application/timestamp-reply"

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.receiver.url

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer the request that came last."""
        _, query = self.receiver.requests[-1]
        body = b"" if self.is_away else self.change(self.authority.reply(query))
        handler.send_response(503 if self.is_away else 200)
        handler.send_header("content-type", self.content_type)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@contextmanager
def serving(authority: Authority) -> Iterator[Served]:
    """Serve an authority while the block runs."""
    with receiving() as receiver:
        served = Served(authority, receiver)
        receiver.answer = served.answer
        yield served


def with_authority(settings: Settings, served: Served) -> Settings:
    """Return the settings of whoever has shards stamped by the authority."""
    more = {"timestamp_url": SecretStr(served.url), "timestamp_trust": served.authority.trust_file}
    return settings.model_copy(update=more)


def hang(receiver: Receiver) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send the beginning of an answer, and then a byte at a time until the test ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/timestamp-reply")
        handler.send_header("content-length", "1000")
        handler.end_headers()
        while not receiver.released.is_set():
            handler.wfile.write(b"0")
            time.sleep(0.02)

    return answer
