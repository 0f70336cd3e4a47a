"""The package index that pip is configured for on this machine, as secrets and contexts of an image's build."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""Where the Dockerfile mounts the secret `ca_bundle`."""


@dataclass(frozen=True)
class PackageIndex:
    """URLs of indexes, a file of certificates and a folder of wheels; None and empty where pip has its defaults."""

    index: str | None = None
    others: tuple[str, ...] = ()
    certificates: Path | None = None
    wheels: Path | None = None

    @classmethod
    def of_pip(cls) -> Self:
        """Read pip's files and variables."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        found: dict[str, str] = {}
        for line in listed.stdout.splitlines():
            name, _, value = line.partition("=")
            found[name.rpartition(".")[2]] = str(ast.literal_eval(value))
        folders = [Path(text.removeprefix("file://")) for text in found.get("find-links", "").split()]
        certificates = found.get("cert") or os.environ.get("SSL_CERT_FILE")
        return cls(
            index=found.get("index-url"),
            others=tuple(url for url in found.get("extra-index-url", "").split() if urlsplit(url).netloc),
            certificates=Path(certificates) if certificates else None,
            wheels=next((folder for folder in folders if folder.is_dir()), None),
        )

    def options(self, folder: Path) -> list[str]:
        """Return the build's options; they name files that this writes into the folder, which only we can read."""
        secrets = {"pip_conf": folder / "pip.conf", "uv_toml": folder / "uv.toml"}
        secrets["pip_conf"].write_text(self._pip())
        secrets["uv_toml"].write_text(self._uv())
        if self.certificates:
            secrets["ca_bundle"] = self.certificates
        given = [part for name, path in secrets.items() for part in ("--secret", f"id={name},src={path}")]
        return [*given, "--build-context", f"wheels={self.wheels}"] if self.wheels else given

    def _pip(self) -> str:
        lines = [
            "[global]",
            f"index-url = {self.index}" if self.index else "",
            f"extra-index-url = {' '.join(self.others)}" if self.others else "",
            f"cert = {CERTIFICATES}" if self.certificates else "",
        ]
        return "".join(f"{line}\n" for line in lines if line)

    def _uv(self) -> str:
        lines = [
            f"index-url = {json.dumps(self.index)}" if self.index else "",
            f"extra-index-url = {json.dumps(self.others)}" if self.others else "",
            "system-certs = true" if self.certificates else "",
        ]
        return "".join(f"{line}\n" for line in lines if line)
