"""Posting to receivers that can't be trusted."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import certifi
import pytest

from jobs.outbound_http import bounded_http_post
from jobs.outbound_http.bounded_http_post import PostError, post
from tests.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def send(url: str, timeout_s: float = 10) -> int:
    return post(url, b'{"a":1}', {"x-own": "1"}, allows_private=True, timeout_s=timeout_s)


def test_a_request_arrives_as_it_was_sent(receiver: Receiver) -> None:
    assert send(receiver.url) == 204
    ((headers, body),) = receiver.requests
    assert body == b'{"a":1}'
    assert headers["x-own"] == "1"
    assert headers["host"] == receiver.url.split("/")[2]


@pytest.mark.parametrize("status", [200, 400, 410, 500])
def test_the_status_is_told(receiver: Receiver, status: int) -> None:
    receiver.answer = status
    assert send(receiver.url) == status


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    with receiving() as other:

        def redirect(request: BaseHTTPRequestHandler) -> None:
            request.send_response(307)
            request.send_header("location", other.url)
            request.send_header("content-length", "0")
            request.end_headers()

        receiver.answer = redirect
        assert send(receiver.url) == 307
        assert other.requests == []


def test_the_name_is_resolved_once(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere at the second look (DNS rebinding) gets no second look."""
    asked, real = [], socket.getaddrinfo

    def look(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "rebound.test":
            return real(host, *arguments, **options)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    assert send(receiver.url.replace("127.0.0.1", "rebound.test")) == 204
    assert asked == ["rebound.test"]
    assert receiver.requests[0][0]["host"].startswith("rebound.test:")


def test_without_leave_nothing_is_sent_to_a_private_address(receiver: Receiver) -> None:
    with pytest.raises(PostError, match=r"127\.0\.0\.1 leads to 127\.0\.0\.1, which isn't a public address"):
        post(receiver.url, b"", {}, allows_private=False)
    assert receiver.requests == []


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    assert send(receiver.url) == 204


def never(receiver: Receiver) -> Callable[[BaseHTTPRequestHandler], object]:
    return lambda _: receiver.released.wait(30)


def drip(receiver: Receiver) -> Callable[[BaseHTTPRequestHandler], object]:
    """Header after header, each in time."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not receiver.released.wait(0.05):
            request.wfile.write(b"x: y\r\n")

    return answer


def endless(receiver: Receiver) -> Callable[[BaseHTTPRequestHandler], object]:
    """A body without an end, which is nobody's business."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not receiver.released.is_set():
            request.wfile.write(bytes(65536))

    return answer


@pytest.mark.parametrize("how", [never, drip])
def test_an_answer_that_does_not_come_is_waited_for_in_bounded_time(receiver: Receiver, how: Any) -> None:
    receiver.answer = how(receiver)
    began = time.monotonic()
    with pytest.raises(PostError, match=r"no answer within 0\.5 s"):
        send(receiver.url, 0.5)
    assert time.monotonic() - began < 30


def test_a_body_without_an_end_is_not_read(receiver: Receiver) -> None:
    receiver.answer = endless(receiver)
    assert send(receiver.url) == 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection without an answer"),
        (b"hello\r\n\r\n", "no valid answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n", "no valid answer"),
        (b"HTTP/1.1 200 OK\r\nx: " + bytes(100_000), "no valid answer"),
    ],
)
def test_junk_is_no_answer(receiver: Receiver, answer: bytes, reason: str) -> None:
    receiver.answer = lambda request: request.wfile.write(answer)
    with pytest.raises(PostError, match=reason):
        send(receiver.url)


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(PostError, match="Connection refused"):
            send(f"http://127.0.0.1:{taken.getsockname()[1]}/")


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(PostError, match=r"[Nn]ame"):
        send("http://nowhere.invalid/")


class TestTls:
    @pytest.fixture
    def port(self, certificate: Path) -> Iterator[int]:
        """A server with a certificate for localhost."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=self.serve, args=(listening, context))
            thread.start()
            yield listening.getsockname()[1]
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()

    def serve(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as secure:
                        received = b""
                        while not received.endswith(b'{"a":1}'):
                            received += secure.recv(65536)
                        secure.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                except OSError:
                    pass

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        from datetime import UTC, datetime, timedelta

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "certificate.pem"
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        path.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(pem)
        )
        return path

    def test_a_certificate_is_checked(
        self, port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(PostError, match="its certificate isn't valid"):
            send(f"https://localhost:{port}/")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert send(f"https://localhost:{port}/") == 204
        with pytest.raises(PostError, match="its certificate isn't valid"):
            send(f"https://127.0.0.1:{port}/")

    def test_authorities_are_read_once_until_their_file_changes(
        self, port: int, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authorities = tmp_path / "authorities.pem"
        authorities.write_bytes(Path(certifi.where()).read_bytes())
        monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
        with pytest.raises(PostError, match="its certificate isn't valid"):
            send(f"https://localhost:{port}/")
        assert bounded_http_post._trusting_context() is bounded_http_post._trusting_context()
        authorities.write_bytes(certificate.read_bytes())
        assert send(f"https://localhost:{port}/") == 204

    def test_a_handshake_that_does_not_end(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            began = time.monotonic()
            with pytest.raises(PostError, match=r"no answer within 0\.3 s"):
                send(f"https://127.0.0.1:{silent.getsockname()[1]}/", 0.3)
            assert time.monotonic() - began < 30
