"""The folder in which `nightmill identity` keeps the key that signs image files, and its certificates."""

import os
from pathlib import Path

from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.signing_identity.find_identity_file import AUTHORITY_KEY, IDENTITY, TRUSTED, identity_folder


class IdentityFolder:
    """Files of one identity; keys are readable by the user alone, and each file is replaced at once."""

    def __init__(self, settings: Settings) -> None:
        self.path = identity_folder(settings)
        self.identity, self.authority_key = self.path / IDENTITY, self.path / AUTHORITY_KEY
        self.trusted = self.path / TRUSTED

    def make(self) -> None:
        """Create the folder, closed to other users. Raises UsageError if it can't be."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.path}: can't be made: {error.strerror}") from None

    def write(self, file: Path, body: bytes, mode: int) -> None:
        """Write or replace a file of the folder. Raises UsageError if it can't be written."""
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(body)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UsageError(f"{file}: can't be written: {error.strerror}") from None

    def trust(self, certificates: bytes) -> None:
        """Add certificates of authorities, as PEM, to those that are trusted."""
        before = self.trusted.read_bytes() if self.trusted.exists() else b""
        if certificates.strip() and certificates not in before:
            self.write(self.trusted, before + certificates, 0o644)

    def delete_keys(self) -> list[Path]:
        """Delete the identity and the authority's key; returns the files that were there. Certificates stay trusted."""
        files = [file for file in (self.identity, self.authority_key) if file.exists()]
        for file in files:
            file.unlink()
        return files
