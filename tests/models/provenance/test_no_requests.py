"""What a file names is asked by nobody: neither manifests elsewhere nor issuers of identities."""

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import c2pa
import pytest

from models.provenance.parent_file import ParentFile
from models.provenance.read_manifest import ManifestReader, ManifestState
from models.provenance.sign_file import FileSigner
from tests.models.provenance.signed_files import IDENTITY, claim, file
from tests.models.provenance.strangers_identity import file_that_names_an_issuer


class Listener:
    """Counts connections to a port of this host, and closes them."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def test_issuers_of_identities_are_not_asked(listener: Listener) -> None:
    host = socket.gethostname()
    body = file_that_names_an_issuer(host, listener.port)
    with c2pa.Reader("image/png", io.BytesIO(body)):
        pass
    if not listener.connections:
        pytest.skip(f"{host} doesn't lead here, or c2pa doesn't ask anybody by itself")
    asked = listener.connections
    found = ManifestReader().read(body, "image/png")
    assert found is not None
    assert found.state is ManifestState.VALID
    signer = FileSigner(IDENTITY)
    edited = signer.sign(file(), "image/png", claim(is_edited=True), ParentFile(body, "image/png"))
    assert edited.manifest.ingredients == (found.id,)
    assert listener.connections == asked
