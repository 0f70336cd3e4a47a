"""Signed files: what c2pa reads back of them, tampering, ingredients, and files of unknown origin."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import c2pa
import numpy as np
import pytest
from PIL import Image

from models.errors import SigningError
from models.provenance.image_claim import SourceType
from models.provenance.media_type import media_type_of
from models.provenance.parent_file import ParentFile
from models.provenance.read_manifest import Manifest, ManifestReader, ManifestState, UnreadableManifestError
from models.provenance.sign_file import MOST_SIGNED_BYTES, FileSigner
from tests.models.provenance.signed_files import AUTHORITY, IDENTITY, claim, expired_identity, file, repainted

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
TRUSTING = ManifestReader(AUTHORITY.certificate)


@pytest.fixture(scope="module")
def signer() -> FileSigner:
    return FileSigner(IDENTITY)


def whole(body: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """The active manifest as c2pa itself tells it."""
    with c2pa.Reader(media_type, io.BytesIO(body)) as reader:
        store = json.loads(reader.json())
    found: dict[str, Any] = store["manifests"][store["active_manifest"]]
    return found


def assertion(manifest: dict[str, Any], label: str) -> list[Any]:
    return [each["data"] for each in manifest["assertions"] if each["label"] == label]


def read(body: bytes, media_type: str = "image/png", reader: ManifestReader = TRUSTING) -> Manifest:
    found = reader.read(body, media_type)
    assert found is not None
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_all_formats_are_signed_and_keep_their_pixels(signer: FileSigner, format: str) -> None:
    body, media_type = file(format), FORMATS[format]
    signed = signer.sign(body, media_type, claim())
    found = read(signed.body, media_type)
    assert (found.state, found.signer, found.generator, found.failures) == (
        ManifestState.TRUSTED,
        "Example Studio",
        "nightmill",
        (),
    )
    assert (found.id, found.source_type) == (signed.manifest.id, SourceType.GENERATED)
    assert found.generation == claim().details
    assert read(signed.body, media_type, ManifestReader()).state is ManifestState.VALID
    with Image.open(io.BytesIO(body)) as before, Image.open(io.BytesIO(signed.body)) as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))
    assert len(signed.body) - len(body) < 4096


def test_what_the_manifest_says(signer: FileSigner) -> None:
    said = whole(
        signer.sign(file(), "image/png", claim(iscc="ISCC:EEA4FESMKUZL3X6I", tiled_mark="00" * 8)).body
    )
    made, marked = assertion(said, "c2pa.actions.v2")[0]["actions"]
    assert (made["action"], made["digitalSourceType"]) == ("c2pa.created", SourceType.GENERATED)
    assert made["softwareAgent"] == {"name": "nightmill", "version": "1.0"}
    assert marked["action"] == "c2pa.watermarked.bound"
    bindings = assertion(said, "c2pa.soft-binding")
    assert {each["alg"]: each["blocks"][0]["value"] for each in bindings} == {
        "org.nightmill.tiled.1": "00" * 8,
        "io.iscc.v0": "ISCC:EEA4FESMKUZL3X6I",
    }
    (training,) = assertion(said, "cawg.training-mining")
    assert {entry["use"] for entry in training["entries"].values()} == {"notAllowed"}
    other = whole(signer.sign(file(), "image/png", claim(may_train=True, has_other_mark=True)).body)
    (training,) = assertion(other, "cawg.training-mining")
    assert {entry["use"] for entry in training["entries"].values()} == {"allowed"}
    assert assertion(other, "c2pa.actions.v2")[0]["actions"][1]["action"] == "c2pa.watermarked.unbound"
    assert assertion(other, "c2pa.soft-binding") == []


@pytest.mark.parametrize("format", FORMATS)
def test_every_changed_byte_of_the_picture_is_noticed(signer: FileSigner, format: str) -> None:
    media_type, plain = FORMATS[format], file(format)
    body = signer.sign(plain, media_type, claim()).body
    for place in range(len(plain) // 4, len(plain) - 100, len(plain) // 5):
        changed = bytearray(body)
        changed[body.index(plain[place : place + 40])] ^= 1
        found = read(bytes(changed), media_type)
        assert (found.state, found.is_tampered) == (ManifestState.INVALID, True)


def test_a_manifest_of_another_picture_is_tampering(signer: FileSigner) -> None:
    """The manifest's chunk of one PNG in another one."""
    one, other = signer.sign(file(side=128), "image/png", claim()).body, file(side=64)
    begin = one.index(b"caBX") - 4
    length = 12 + int.from_bytes(one[begin : begin + 4], "big")
    found = read(other[:33] + one[begin : begin + length] + other[33:])
    assert (found.state, found.is_tampered) == (ManifestState.INVALID, True)


def test_a_picture_that_was_made_from_another_one_keeps_its_manifest(signer: FileSigner) -> None:
    parent = signer.sign(file("JPEG"), "image/jpeg", claim()).body
    edited = signer.sign(file(), "image/png", claim(is_edited=True), ParentFile(parent, "image/jpeg"))
    assert edited.manifest.source_type == SourceType.EDITED
    assert edited.manifest.ingredients == (read(parent, "image/jpeg").id,)
    said = whole(edited.body)
    actions = [each["action"] for each in assertion(said, "c2pa.actions.v2")[0]["actions"]]
    assert actions == ["c2pa.opened", "c2pa.edited"]
    assert [each["relationship"] for each in said["ingredients"]] == ["parentOf"]


@pytest.mark.parametrize("parent", [file("JPEG"), b"\x89PNG\r\n\x1a\n and no more", b""])
def test_parents_without_a_manifest_and_damaged_ones(signer: FileSigner, parent: bytes) -> None:
    media_type = media_type_of(parent) or "image/png"
    edited = signer.sign(file(), "image/png", claim(is_edited=True), ParentFile(parent, media_type))
    found = read(edited.body)
    assert (found.state, found.source_type, found.ingredients) == (
        ManifestState.TRUSTED,
        SourceType.EDITED,
        (),
    )


@pytest.mark.parametrize("embeds", [True, False])
def test_a_parent_whose_manifests_are_too_large_is_left_out(embeds: bool) -> None:
    """However they are hidden from who measures them in the file."""
    builder = c2pa.Builder(
        claim().manifest(has_parent=False) | {"thumbnail": {"format": "image/jpeg", "identifier": "t"}}
    )
    builder.add_resource("t", io.BytesIO(bytes(MOST_SIGNED_BYTES)))
    info = c2pa.C2paSignerInfo(
        alg=IDENTITY.algorithm.encode(), sign_cert=IDENTITY.chain, private_key=IDENTITY.key, ta_url=None
    )
    parent = io.BytesIO()
    builder.sign(c2pa.Signer.from_info(info), "image/jpeg", io.BytesIO(file("JPEG")), parent)
    signer = FileSigner(IDENTITY, embeds=embeds)
    edited = signer.sign(
        file(), "image/png", claim(is_edited=True), ParentFile(parent.getvalue(), "image/jpeg")
    )
    assert edited.manifest.ingredients == ()
    assert len(edited.body) + len(edited.sidecar or b"") < 60_000


def test_a_tampered_parent_stays_known_as_tampered(signer: FileSigner) -> None:
    parent = bytearray(signer.sign(file(), "image/png", claim()).body)
    parent[-2000] ^= 1
    edited = signer.sign(file(), "image/png", claim(is_edited=True), ParentFile(bytes(parent), "image/png"))
    assert read(edited.body).state is ManifestState.TRUSTED
    (ingredient,) = whole(edited.body)["ingredients"]
    codes = [each["code"] for each in ingredient["validation_results"]["activeManifest"]["failure"]]
    assert "assertion.dataHash.mismatch" in codes


def test_an_expired_identity_signs_nothing() -> None:
    expired = expired_identity()
    assert expired.expires_at < datetime.now(UTC) - timedelta(days=100)
    with pytest.raises(SigningError, match=r"valid|expired"):
        FileSigner(expired).sign(file(), "image/png", claim())


def test_metadata_is_kept_and_goes_with_the_manifest_when_it_is_saved_again(signer: FileSigner) -> None:
    body = signer.sign(file(), "image/png", claim()).body
    for format, media_type in FORMATS.items():
        assert TRUSTING.read(repainted(body, format), media_type) is None


@pytest.mark.parametrize("body", [b"", b"nothing", file()[:99], file("JPEG")[:50]])
def test_files_that_cannot_be_read(body: bytes) -> None:
    for media_type in FORMATS.values():
        try:
            found = TRUSTING.read(body, media_type)
        except UnreadableManifestError:
            continue
        assert found is None
