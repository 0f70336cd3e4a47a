"""A token of the tests' own: SoftHSM, which keeps keys in files and is used as any other token is."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from models.provenance.signing_identity import SigningIdentity

_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
MODULE = next((path for path in _MODULES if Path(path).exists()), "")
needs_softhsm = pytest.mark.skipif(
    not MODULE or shutil.which("softhsm2-util") is None, reason="needs SoftHSM (Debian: softhsm2)"
)
PIN = "s3cret-pin"


@dataclass(frozen=True)
class SoftToken:
    """A token with the label `mill`."""

    folder: Path

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    @property
    def query(self) -> str:
        return f"module-path={MODULE}&pin-source=file:{self.pin_file}"

    def uri(self, path: str = "token=mill;object=sign") -> str:
        return f"pkcs11:{path}?{self.query}"

    def put(self, key: bytes, label: str = "sign", id: str = "01") -> None:
        """Put a private key, as PEM, into the token."""
        file = self.folder / "key.pem"
        file.write_bytes(key)
        _run("--import", str(file), "--token", "mill", "--label", label, "--id", id, "--pin", PIN)
        file.unlink()

    def take_away(self) -> None:
        """Let the token be gone."""
        (self.folder / "tokens").rename(self.folder / "elsewhere")
        (self.folder / "tokens").mkdir()

    def bring_back(self) -> None:
        """Let it be there again."""
        (self.folder / "tokens").rmdir()
        (self.folder / "elsewhere").rename(self.folder / "tokens")

    def identity(self, of: SigningIdentity, path: str = "token=mill;object=sign") -> bytes:
        """The text of an identity whose key is in the token."""
        return self.uri(path).encode() + b"\n" + of.chain


@contextmanager
def soft_token(folder: Path) -> Iterator[SoftToken]:
    """Make a token in an empty folder; in this process and its children, it is the only one while the block runs."""
    (folder / "tokens").mkdir(parents=True)
    (folder / "pin").write_text(PIN + "\n")
    (folder / "pin").chmod(0o600)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    with patch.dict(os.environ, SOFTHSM2_CONF=str(configuration)):
        _run("--init-token", "--free", "--label", "mill", "--pin", PIN, "--so-pin", "5678-so")
        yield SoftToken(folder)


def _run(*arguments: str) -> None:
    subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)
