"""Reads C2PA manifests of image files of unknown origin."""

import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import c2pa

from models.provenance.image_claim import GENERATION

NO_REQUESTS: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {"decode_identity_assertions": False},  # issuers named by did:web are asked over HTTPS
}
"""Settings of c2pa. Files name the addresses; whoever made them would choose what this host asks."""
_PICTURE_CHANGED = re.compile(r"assertion\.(data|boxes|bmff)Hash\.mismatch")
_FIRST_CHARACTERS = 200


class ManifestState(StrEnum):
    """What the signature of a manifest is worth."""

    TRUSTED = "trusted"
    """The file is as it was signed, by somebody whom a trusted authority names."""
    VALID = "valid"
    """The file is as it was signed, by somebody who isn't known."""
    INVALID = "invalid"
    """The file or its manifest was changed since, or the certificate was not valid."""


@dataclass(frozen=True)
class Manifest:
    """The active manifest of a file. `failures` are C2PA's status codes; `generation` is what nightmill says of it."""

    id: str
    state: ManifestState
    signer: str | None
    generator: str | None
    failures: tuple[str, ...]
    generation: Mapping[str, Any] | None
    source_type: str | None
    ingredients: tuple[str, ...]
    """Ids of the manifests of the pictures that it was made from."""

    @property
    def is_tampered(self) -> bool:
        """Whether the picture's bytes are others than those that were signed."""
        return any(map(_PICTURE_CHANGED.fullmatch, self.failures))


class UnreadableManifestError(Exception):
    """The file has a manifest, or what looks like one, that can't be read; the message says why."""


class ManifestReader:
    """Reads manifests; `anchors` are PEM certificates of authorities whose signers are trusted."""

    def __init__(self, anchors: bytes = b"") -> None:
        trust = {"trust": {"user_anchors": anchors.decode()}} if anchors.strip() else {}
        self._context = c2pa.Context.from_dict(NO_REQUESTS | trust)

    def read(self, body: bytes, media_type: str, sidecar: bytes | None = None) -> Manifest | None:
        """Return the active manifest of a file, or else of the `sidecar` that was found beside it.

        Returns None if there is none. Raises UnreadableManifestError.
        """
        try:
            reader = c2pa.Reader.try_create(media_type, io.BytesIO(body), context=self._context)
            if reader is None and sidecar is not None:
                if not sidecar:
                    raise UnreadableManifestError("it is empty")
                reader = c2pa.Reader(media_type, io.BytesIO(body), sidecar, context=self._context)
            if reader is None:
                return None
            with reader:
                return _manifest(json.loads(reader.json()))
        except (c2pa.C2paError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableManifestError(first_line(error)) from None


def _manifest(store: Mapping[str, Any]) -> Manifest:
    id = str(store["active_manifest"])
    active = store["manifests"][id]
    results = store.get("validation_results", {}).get("activeManifest", {})
    failures = tuple(each["code"] for each in results.get("failure", ()))
    signature = active.get("signature_info", {})
    generators = active.get("claim_generator_info") or [{}]
    assertions = active.get("assertions", ())
    return Manifest(
        id=id,
        state=ManifestState(store["validation_state"].lower()),
        signer=_text(signature.get("issuer")),
        generator=_text(generators[0].get("name")),
        failures=failures,
        generation=next(
            (
                each["data"]
                for each in assertions
                if each["label"] == GENERATION and isinstance(each["data"], dict)
            ),
            None,
        ),
        source_type=_source_type(assertions),
        ingredients=tuple(
            str(each["active_manifest"])
            for each in active.get("ingredients", ())
            if "active_manifest" in each
        ),
    )


def _source_type(assertions: Iterable[Any]) -> str | None:
    """Return the source type of the first action that has one."""
    for assertion in assertions:
        if assertion["label"].startswith("c2pa.actions"):
            for action in assertion["data"].get("actions", ()):
                if "digitalSourceType" in action:
                    return _text(action["digitalSourceType"])
    return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:_FIRST_CHARACTERS]


def first_line(error: BaseException) -> str:
    """Return the beginning of c2pa's message: the rest may be what a file says."""
    return str(error).split("\n")[0][:_FIRST_CHARACTERS] or type(error).__name__
