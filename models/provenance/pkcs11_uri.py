"""PKCS#11 URIs (RFC 7512): which private key in which token, and the file that has its PIN."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from models.errors import SigningIdentityError

SCHEME = "pkcs11:"
FORM = "pkcs11:token=…;object=…?module-path=/…&pin-source=file:/…"
_TOKEN = ("token", "manufacturer", "model", "serial")
_PATH = (*_TOKEN, "object", "id", "type")
_QUERY = ("module-path", "pin-source")
_LONGEST_PIN = 256
_LINE = re.compile(rb"(?m)^[ \t]*(pkcs11:\S*)[ \t]*\r?$")


@dataclass(frozen=True)
class Pkcs11Uri:
    """A private key: what its token and its own attributes must be, and the module (a shared library) that leads there.

    `text` is the URI as it was written; it holds no PIN.
    """

    text: str
    token: dict[str, str]
    """Of token (its label), manufacturer, model and serial those that are given."""
    object: str | None
    id: bytes | None
    module: Path
    pin_file: Path | None

    @classmethod
    def parse(cls, text: str) -> "Pkcs11Uri":
        """Parse a URI; raises SigningIdentityError. A PIN in it is refused, and not told."""
        path, _, query = text.removeprefix(SCHEME).partition("?")
        # Anywhere, as a wrong separator makes it a part of something else.
        if "pin-value" in unquote(text).lower():
            raise SigningIdentityError(
                "the URI of its key has a PIN (pin-value), which others could see: write the PIN into a file, mode "
                "0600, and name that by pin-source=file:/…"
            )
        is_plain = text.isascii() and text.isprintable() and not {" ", "#"} & set(text)
        if not text.startswith(SCHEME) or not is_plain or ";" in query:
            raise SigningIdentityError(f"the URI of its key can't be read; write {FORM}")
        asked = _attributes(query, "&")
        found = _attributes(path, ";")
        _check_known(found, _PATH)
        _check_known(asked, _QUERY)
        if found.get("type", "private") != "private":
            raise SigningIdentityError(
                "the URI of its key must be of a private one: type=private, or no type"
            )
        if "module-path" not in asked:
            raise SigningIdentityError(
                "the URI of its key has no module-path, the shared library of the token's maker: …?module-path=/…"
            )
        return cls(
            text,
            {name: unquote(value) for name, value in found.items() if name in _TOKEN},
            unquote(found["object"]) if "object" in found else None,
            unquote_to_bytes(found["id"]) if "id" in found else None,
            _file(asked["module-path"], "module-path"),
            _file(asked["pin-source"], "pin-source") if "pin-source" in asked else None,
        )

    @property
    def place(self) -> str:
        """Which key it is, without the module and the file of the PIN."""
        return self.text.partition("?")[0]

    def read_pin(self) -> str | None:
        """Return the PIN, the first line of its file; None if there is no file. Raises SigningIdentityError."""
        if self.pin_file is None:
            return None
        try:
            with self.pin_file.open("rb") as file:
                line = file.readline(_LONGEST_PIN + 2).rstrip(b"\r\n")
                pin = line.decode()
        except OSError as error:
            raise SigningIdentityError(
                f"the PIN of the token can't be read: {self.pin_file}: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            pin = ""
        if not 0 < len(line) <= _LONGEST_PIN or not pin:
            raise SigningIdentityError(f"the first line of {self.pin_file} is no PIN")
        return pin


def uri_in(body: bytes) -> Pkcs11Uri | None:
    """Return the URI that has a line to itself in a file of certificates; None if there is none.

    Raises SigningIdentityError if there are several, or it can't be read.
    """
    found = [line.decode("utf-8", "replace") for line in _LINE.findall(body)]
    if len(found) > 1:
        raise SigningIdentityError("holds several URIs of keys (pkcs11:…)")
    return Pkcs11Uri.parse(found[0]) if found else None


def _attributes(text: str, separator: str) -> dict[str, str]:
    """Return the attributes of a part of a URI, not decoded."""
    found: dict[str, str] = {}
    for pair in filter(None, text.split(separator)):
        name, is_pair, value = pair.partition("=")
        if not is_pair or name in found:
            raise SigningIdentityError(
                f"the URI of its key can't be read, or has an attribute twice; write {FORM}"
            )
        found[name] = value
    return found


def _check_known(found: dict[str, str], known: tuple[str, ...]) -> None:
    for name in found:
        if name not in known:
            shown = re.sub("[^A-Za-z0-9_-]", "?", name)[:40]
            raise SigningIdentityError(
                f"the URI of its key has the attribute {shown}, which isn't known here: {', '.join(known)} are"
            )


def _file(value: str, name: str) -> Path:
    """Return the absolute path in a value: a path, or a URL of the scheme file."""
    path = re.sub(r"^file:(//(localhost)?(?=/))?", "", unquote(value))
    if not re.match("/(?!/)", path) or "\0" in path:
        raise SigningIdentityError(f"{name} in the URI of its key must be an absolute path, or file:/…")
    return Path(path)
