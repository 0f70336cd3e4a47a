"""`nightmill verify` by signed manifests, digests and ISCC codes, in the database and in an export."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import c2pa
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import Engine

from bench.image_files import grainy
from console.provenance_lookup.export_index import ExportIndex
from console.provenance_lookup.trace_picture import _likeness
from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.db.installation_id import this_installation
from jobs.images.find_rows_by_mark_or_digest import state_of_job
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from models.assess.perceptual_hash import perceptual_hash
from models.provenance.iscc_code import BITS, image_code
from models.provenance.sign_file import FileSigner
from models.provenance.signing_identity import Authority
from models.watermark.blocks import Pixels
from models.watermark.tiled.embed import embed
from models.watermark.tiled.identify_mark import Mark
from models.watermark.tiled.payload import Payload, installation_number
from models.watermark.tiled.search_cropped_and_turned import Place
from tests.console.conftest import Typed
from tests.factories import change, image, lanes_of, look, make_batch, take
from tests.models.provenance.signed_files import AUTHORITY, IDENTITY, claim
from tests.s3 import S3Server


@dataclass(frozen=True)
class Ours:
    """A signed and marked picture of this installation."""

    pixels: Pixels
    body: bytes
    job: int
    urn: str


def png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def signer() -> FileSigner:
    return FileSigner(IDENTITY)


@pytest.fixture
def ours(engine: Engine, signer: FileSigner) -> Ours:
    """Two rows, of which the first one's picture is that of the fixture."""
    batch = make_batch(engine, [{"prompt": "a red fox"}, {"prompt": "a blue bird"}], name="foxes")
    (lane,) = lanes_of(engine, batch)
    first, second = take(engine, lane)
    here = this_installation(engine).id
    payload = Payload(0, installation_number(here), first.id)
    pixels = embed(grainy(512), payload.bits, b"nightmill")
    urn = f"urn:nightmill:{here}:job:{first.id}"
    signed = signer.sign(png(pixels), "image/png", claim(details={"image": urn}))
    body = signed.body
    row = replace(
        image(first),
        sha256=sha256(body).hexdigest(),
        pixels_sha256=sha256(pixels.tobytes()).hexdigest(),
        iscc=image_code(pixels),
        watermark=payload.hex,
        watermark_method="tiled",
        width=512,
        height=512,
        c2pa_manifest_id=signed.manifest.id,
    )
    transitions.complete(engine, [row, image(second)])
    return Ours(pixels, body, first.id, urn)


@pytest.fixture
def trusting(typed: Typed, tmp_path: Path) -> Typed:
    """Commands of an installation that trusts the authority of the tests."""
    folder = typed.settings.data_dir / "identity"
    folder.mkdir(parents=True)
    (folder / "trusted.pem").write_bytes(AUTHORITY.certificate)
    return typed


def save(path: Path, body: bytes) -> str:
    path.write_bytes(body)
    return str(path)


def test_all_layers_speak_of_a_file_as_it_was_delivered(trusting: Typed, ours: Ours, tmp_path: Path) -> None:
    told = trusting("verify", save(tmp_path / "a.png", ours.body), "--json")
    (found,) = told.json
    assert told.code == 0
    assert (found["verdict"], found["found_by"], found["digest"]) == (
        "ours",
        ["digest", "manifest", "mark"],
        "file",
    )
    assert (found["manifest"]["state"], found["manifest"]["generation"]["image"]) == ("trusted", ours.urn)
    assert (found["row"]["job"], found["row"]["prompt"]) == (ours.job, "a red fox")
    shown = trusting("verify", str(tmp_path / "a.png")).out
    assert [word in shown for word in ("digest, manifest, mark", "foxes", "a red fox")] == [True] * 3


def test_each_layer_alone_finds_the_row(
    trusting: Typed, engine: Engine, ours: Ours, signer: FileSigner, tmp_path: Path
) -> None:
    change(engine, "UPDATE images SET sha256 = repeat('0', 64), pixels_sha256 = NULL")
    plain, stream = grainy(512), io.BytesIO()
    Image.fromarray(plain).resize((300, 300)).save(stream, "JPEG", quality=60)
    signed = signer.sign(png(plain), "image/png", claim(details={"image": ours.urn}))
    change(
        engine,
        "UPDATE images SET c2pa_manifest_id = :id, sha256 = :file WHERE job_id = :job",
        id=signed.manifest.id,
        file=sha256(signed.body).hexdigest(),
        job=ours.job,
    )
    cases = {
        "signed.png": (signed.body, ["digest", "manifest"]),
        "marked.png": (png(ours.pixels), ["mark"]),
        "small.jpg": (stream.getvalue(), ["iscc"]),
    }
    for name, (body, layers) in cases.items():
        (found,) = trusting("verify", save(tmp_path / name, body), "--json", "--quick").json
        assert (found["found_by"], found["row"]["job"]) == (layers, ours.job), name
        assert found["verdict"] == ("similar to ours" if layers == ["iscc"] else "ours")
    for column, value, name in (("pixels_sha256", plain.tobytes(), "pixels"), ("sha256", png(plain), "file")):
        change(engine, "UPDATE images SET pixels_sha256 = NULL")
        change(
            engine,
            f"UPDATE images SET {column} = :digest WHERE job_id = :job",  # noqa: S608
            digest=sha256(value).hexdigest(),
            job=ours.job,
        )
        (found,) = trusting("verify", save(tmp_path / "plain.png", png(plain)), "--json", "--quick").json
        assert (found["digest"], found["found_by"], found["verdict"]) == (name, ["digest"], "ours")
    change(
        engine,
        "UPDATE images SET pixels_sha256 = :digest, iscc = NULL",
        digest=sha256(plain.tobytes()).hexdigest(),
    )
    (found,) = trusting(
        "verify", save(tmp_path / "wide.png", png(plain.reshape(256, 1024, 3))), "--json", "--quick"
    ).json
    assert found["verdict"] == "no trace of ours", "the same bytes in another shape"


def test_of_rows_with_the_same_pixels_the_one_of_the_file_is_named(
    trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path
) -> None:
    """As when a row is rendered twice, with and without a signature."""
    change(
        engine,
        "UPDATE images SET pixels_sha256 = :digest, width = 512, height = 512",
        digest=sha256(ours.pixels.tobytes()).hexdigest(),
    )
    change(
        engine,
        "UPDATE images SET sha256 = :file WHERE job_id <> :job",
        file=sha256(b"").hexdigest(),
        job=ours.job,
    )
    other = png(ours.pixels)
    for body, job in ((ours.body, ours.job), (other, ours.job + 1)):
        change(
            engine,
            "UPDATE images SET sha256 = :file WHERE job_id = :job",
            file=sha256(body).hexdigest(),
            job=job,
        )
        (found,) = trusting("verify", save(tmp_path / "a.png", body), "--json", "--quick").json
        assert (found["digest"], found["row"]["job"]) == ("file", job)


def test_a_changed_picture_is_told_as_changed(trusting: Typed, ours: Ours, tmp_path: Path) -> None:
    edited = ours.pixels.copy()
    edited[200:260, 200:260] = 255
    begin = ours.body.index(b"caBX") - 4
    length = 12 + int.from_bytes(ours.body[begin : begin + 4], "big")
    other = png(edited)
    (found,) = trusting(
        "verify",
        save(tmp_path / "b.png", other[:33] + ours.body[begin : begin + length] + other[33:]),
        "--json",
    ).json
    assert (found["verdict"], found["found_by"]) == ("ours", ["mark"])
    assert (found["manifest"]["state"], found["manifest"]["is_tampered"]) == ("invalid", True)
    assert "was changed since it was signed (assertion.dataHash.mismatch)" in found["warning"]


def test_a_manifest_that_was_cut_off_is_told(trusting: Typed, ours: Ours, tmp_path: Path) -> None:
    begin = ours.body.index(b"caBX") - 4
    end = begin + 12 + int.from_bytes(ours.body[begin : begin + 4], "big")
    chunk = b"caBX" + ours.body[begin + 8 :][:100]
    cut = b"".join([(100).to_bytes(4, "big"), chunk, zlib.crc32(chunk).to_bytes(4, "big")])
    place = save(tmp_path / "a.png", ours.body[:begin] + cut + ours.body[end:])
    (found,) = trusting("verify", place, "--quick", "--json").json
    assert (found["verdict"], found["manifest"]["state"]) == ("ours", "unreadable")
    assert found["warning"].startswith("the manifest in it can't be read: ")
    assert "the manifest in it can't be read" in trusting("verify", place, "--quick").out


def test_a_signature_is_no_proof_but_for_the_picture_that_the_row_names(
    typed: Typed, ours: Ours, signer: FileSigner, tmp_path: Path
) -> None:
    """Anybody can sign that a picture is of this installation; some by an authority that is trusted."""
    forged = signer.sign(png(grainy(128)), "image/png", claim(details={"image": ours.urn})).body
    path = save(tmp_path / "forged.png", forged)
    (found,) = typed("verify", path, "--json", "--quick").json
    assert (found["verdict"], found["manifest"]["state"], found["row"]) == ("no trace of ours", "valid", None)
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(AUTHORITY.certificate)
    told = typed("verify", path, "--json", "--quick", "--trust", str(trusted))
    (found,) = told.json
    assert (told.code, found["verdict"], found["found_by"]) == (2, "can't tell", ["manifest"])
    assert "no row has this manifest" in found["why"]
    refused = typed("verify", path, "--trust", save(tmp_path / "no.pem", b"nothing"))
    assert (refused.code, "holds no certificates" in refused.err) == (2, True)


def test_another_picture_under_the_number_of_a_manifest_of_ours(
    trusting: Typed, ours: Ours, tmp_path: Path
) -> None:
    """As somebody can sign whose authority is trusted, too: the number stands in our own files."""
    stranger = Authority.create("Mallory", 100)
    identity = stranger.issue(50)
    info = c2pa.C2paSignerInfo(
        alg=identity.algorithm.encode(), sign_cert=identity.chain, private_key=identity.key, ta_url=None
    )
    definition = claim(details={"image": ours.urn}).manifest(has_parent=False)
    (found,) = trusting("verify", save(tmp_path / "ours.png", ours.body), "--json", "--quick").json
    pixels = grainy(512)
    pixels[100:400, 100:400] = 200
    signed = io.BytesIO()
    c2pa.Builder(definition | {"label": found["manifest"]["id"]}).sign(
        c2pa.Signer.from_info(info), "image/png", io.BytesIO(png(pixels)), signed
    )
    trusted = save(tmp_path / "mallory.pem", stranger.certificate)
    told = trusting(
        "verify", save(tmp_path / "a.png", signed.getvalue()), "--json", "--quick", "--trust", trusted
    )
    (found,) = told.json
    assert (told.code, found["verdict"], found["found_by"]) == (2, "can't tell", ["manifest"])
    assert "Mallory has signed another picture" in found["why"]
    assert (found["manifest"]["state"], found["row"]["job"]) == ("trusted", ours.job)


def test_what_has_become_of_the_job_is_told(
    trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path
) -> None:
    """Of a picture whose row is gone, as after `judge`, `retract`, and `retry` with another seed."""
    path = save(tmp_path / "a.png", ours.body)
    change(
        engine,
        "UPDATE images SET sha256 = repeat('0', 64), pixels_sha256 = NULL, iscc = :other, "
        "c2pa_manifest_id = NULL WHERE job_id = :job",
        other=image_code(255 - grainy(512)[::-1]),
        job=ours.job,
    )
    (found,) = trusting("verify", path, "--json", "--quick").json
    assert (found["verdict"], found["row"]["job"]) == ("can't tell", ours.job)
    said = "its manifest says so, and no row has this manifest: "
    assert found["why"] == f"{said}job {ours.job} has another image now"
    change(engine, "DELETE FROM images WHERE job_id = :job", job=ours.job)
    change(
        engine,
        "UPDATE jobs SET state = 'blocked', error_kind = 'safety', error_text = 'concept 3 at +0.1' WHERE id = :job",
        job=ours.job,
    )
    (found,) = trusting("verify", path, "--json", "--quick").json
    assert (found["verdict"], found["row"]) == ("can't tell", None)
    assert found["why"] == f"{said}job {ours.job} is blocked (concept 3 at +0.1)"
    (other,) = look(engine, "SELECT id FROM images")
    assert trusting("retract", str(other["id"]), "--reason", "not a bird", "--keep-files").code == 0
    assert state_of_job(engine, ours.job + 1) == ("retracted", "not a bird")
    drop_jobs_and_delete_batches.archive(engine, actions.status(engine, "foxes"))
    assert state_of_job(engine, ours.job + 1) == ("retracted", "not a bird")


def animated(pixels: Pixels, format: str) -> bytes:
    stream, other = io.BytesIO(), Image.fromarray(255 - pixels)
    options = {"default_image": True} if format == "PNG" else {"lossless": True, "duration": [1, 60_000]}
    Image.fromarray(pixels).save(stream, format, save_all=True, append_images=[other], **options)
    return stream.getvalue()


def transparent(pixels: Pixels) -> bytes:
    """The same on white, and another picture on black."""
    missing = 255 - pixels.astype(float)
    alpha = missing.max(axis=2)
    colours = 255 - missing * 255 / np.maximum(alpha, 1)[..., None]
    stream = io.BytesIO()
    Image.fromarray(np.dstack([colours.round().clip(0, 255), alpha]).astype(np.uint8), "RGBA").save(
        stream, "PNG"
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda pixels: animated(pixels, "PNG"), "it is animated, and only its first picture was looked at"),
        (lambda pixels: animated(pixels, "WEBP"), "it is animated, and only its first picture was looked at"),
        (transparent, "it is transparent, and was looked at on white"),
    ],
    ids=["png", "webp", "alpha"],
)
def test_what_shows_more_than_our_picture_is_not_said_to_be_it(
    trusting: Typed, ours: Ours, tmp_path: Path, made: Callable[[Pixels], bytes], why: str
) -> None:
    told = trusting("verify", save(tmp_path / "a.png", made(ours.pixels)), "--json", "--quick")
    (found,) = told.json
    assert (told.code, found["verdict"], found["why"]) == (2, "can't tell", why)
    assert found["row"]["job"] == ours.job
    opaque = Image.fromarray(ours.pixels).convert("RGBA")
    opaque.save(tmp_path / "b.png")
    assert trusting("verify", str(tmp_path / "b.png"), "--quick").code == 0


def with_far_exif() -> bytes:
    """A JPEG whose EXIF is to be turned upright, and says that more of it lies at an address that no file has."""
    entries = struct.pack("<HHIIHHII", 0x0112, 3, 1, 6, 0x8769, 16, 1, 38)
    exif, stream = (
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + b"\xff" * 8,
        io.BytesIO(),
    )
    Image.new("RGB", (9, 9)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_a_file_that_decoders_fail_at_leaves_the_others(trusting: Typed, ours: Ours, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    save(folder / "a.jpg", with_far_exif())
    Image.new("L", (70_000, 1), 7).save(folder / "b.png")
    save(folder / "c.png", ours.body)
    told = trusting("verify", str(folder), "--json")
    verdicts = {Path(found["file"]).name: found["verdict"] for found in told.json}
    assert verdicts == {"a.jpg": "unreadable", "b.png": "no trace of ours", "c.png": "ours"}


@pytest.mark.parametrize("id", ["-" * 36, "0" * 36, "0b8e2a50-4f0a-4c06-9a5c"])
def test_a_manifest_that_names_no_installation_is_none_of_nightmill(
    trusting: Typed, signer: FileSigner, tmp_path: Path, id: str
) -> None:
    body = signer.sign(
        png(grainy(64)), "image/png", claim(details={"image": f"urn:nightmill:{id}:job:7"})
    ).body
    (found,) = trusting("verify", save(tmp_path / "a.png", body), "--json", "--quick").json
    assert (found["verdict"], found["found_by"]) == ("no trace of ours", [])


def test_marks_of_jobs_that_never_were(trusting: Typed, engine: Engine, tmp_path: Path) -> None:
    """Whoever has nightmill can write marks with the public key."""
    here = installation_number(this_installation(engine).id)
    pixels = embed(grainy(512), Payload(0, here, 2**40 - 1).bits, b"nightmill")
    told = trusting("verify", save(tmp_path / "a.png", png(pixels)), "--json")
    assert (told.code, told.json[0]["verdict"]) == (2, "can't tell")
    assert told.json[0]["why"] == "its mark says so, and there is no such row, or it is gone"


def test_without_a_database_nothing_is_said_to_be_foreign(settings: Settings, tmp_path: Path) -> None:
    nowhere = settings.model_copy(update={"database_url": None, "data_dir": tmp_path / "none"})
    told = Typed(nowhere, tmp_path)("verify", save(tmp_path / "a.png", png(grainy(64))), "--json", "--quick")
    assert (told.code, told.json[0]["verdict"]) == (2, "can't tell")


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_mark_that_was_put_into_another_picture_is_noticed(
    trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path, is_mirrored: bool
) -> None:
    here = installation_number(this_installation(engine).id)
    other = np.full((512, 512, 3), 90, np.uint8)
    other[256:] = 160
    other[:, 300:] //= 2
    marked = embed(other, Payload(0, here, ours.job).bits, b"nightmill")
    given = marked[:, ::-1].copy() if is_mirrored else marked
    told = trusting("verify", save(tmp_path / "a.png", png(given)), "--json")
    assert (told.code, told.json[0]["verdict"], told.json[0]["found_by"]) == (2, "can't tell", ["mark"])
    assert "looks like another picture than its row's" in told.json[0]["why"]


def test_layers_that_contradict_each_other(
    trusting: Typed, engine: Engine, ours: Ours, signer: FileSigner, tmp_path: Path
) -> None:
    pixels = ours.pixels.copy()
    pixels[0, 0] ^= 1  # not the digest of a row
    signed = signer.sign(png(pixels), "image/png", claim(details={"image": ours.urn}))
    change(
        engine,
        "UPDATE images SET c2pa_manifest_id = :id, sha256 = repeat('1', 64) WHERE job_id <> :job",
        id=signed.manifest.id,
        job=ours.job,
    )
    told = trusting("verify", save(tmp_path / "a.png", signed.body), "--json")
    assert (told.code, told.json[0]["verdict"]) == (2, "can't tell")
    assert told.json[0]["why"] == "manifest and mark contradict each other"


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_an_export_is_enough(
    trusting: Typed, engine: Engine, settings: Settings, ours: Ours, tmp_path: Path, format: str
) -> None:
    made = trusting("export", "foxes", "--format", format, "--to", str(tmp_path / "export"))
    assert made.code == 0, made.err
    nowhere = settings.model_copy(update={"database_url": None, "data_dir": tmp_path / "none"})
    offline = Typed(nowhere, tmp_path)
    (tmp_path / "pictures").mkdir()
    save(tmp_path / "pictures" / "a.png", ours.body)
    save(tmp_path / "pictures" / "b.png", png(ours.pixels))
    stream = io.BytesIO()
    Image.fromarray(ours.pixels).resize((256, 256)).save(stream, "JPEG", quality=75)
    save(tmp_path / "pictures" / "c.jpg", stream.getvalue())
    told = offline("verify", str(tmp_path / "pictures"), "--index", str(tmp_path / "export"), "--json")
    assert told.code == 0, told.err
    assert [found["found_by"][0] for found in told.json] == ["digest", "digest", "mark"]
    assert {found["row"]["prompt"] for found in told.json} == {"a red fox"}
    assert {found["row"]["name"] for found in told.json} == {"foxes"}
    assert not (tmp_path / "none").exists()


def test_indexes_with_columns_of_several_types(settings: Settings, ours: Ours, tmp_path: Path) -> None:
    """As exports have them: numbers and texts in one column, marks that look like numbers, seeds above 2⁶³."""
    folder = tmp_path / "export"
    folder.mkdir()
    mark = Payload(0, 0, ours.job).hex
    digest = sha256(ours.pixels.tobytes()).hexdigest()
    rest = {"sha256": "0" * 64, "pixels_sha256": digest, "width": 512, "height": 512, "seed": 2**64 - 1}
    rows = [
        {"job_id": ours.job, "row_id": 7, "meta": {"a": 1}, "watermark": mark, **rest},
        {"job_id": ours.job + 1, "row_id": "seven", "meta": "none", "watermark": "NMIL", "sha256": "1" * 64},
    ]
    (folder / "part-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "part-1.csv").write_text("job_id,sha256,row_id,watermark\n8,22,9,0012340000000001\n")
    (folder / "part-2.csv").write_text("job_id,sha256,row_id,watermark\n9,33,nine,NMIL\n")
    (folder / "_SUCCESS").write_text('{"installation": 5}')
    index = ExportIndex(folder)
    assert index.installations == frozenset()
    found = index.copy_with_mark("0012340000000001")
    assert found is not None
    assert (found["job"], found["row_id"]) == (8, "9")
    offline = Typed(
        settings.model_copy(update={"database_url": None, "data_dir": tmp_path / "none"}), tmp_path
    )
    (told,) = offline(
        "verify", save(tmp_path / "a.png", png(ours.pixels)), "--index", str(folder), "--json"
    ).json
    assert (told["verdict"], told["digest"], told["row"]["seed"]) == ("ours", "pixels", 2**64 - 1)


def test_an_index_without_sizes_finds_pixels(ours: Ours, tmp_path: Path) -> None:
    digest = sha256(ours.pixels.tobytes()).hexdigest()
    row = {"job_id": ours.job, "sha256": "0" * 64, "pixels_sha256": digest}
    save(tmp_path / "part-0.jsonl", json.dumps(row).encode())
    found = ExportIndex(tmp_path / "part-0.jsonl").of_pixels(digest, (512, 512), "1" * 64)
    assert found is not None
    assert found["job"] == ours.job


def test_what_is_no_index_is_refused(trusting: Typed, ours: Ours, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", ours.body)
    for name, make, said in (
        ("empty", lambda place: place.mkdir(), "holds no .parquet, .jsonl or .csv"),
        ("absent", Path.exists, "isn't there"),
        ("other.csv", lambda place: place.write_text("a,b\n1,2\n"), "has no column job_id, sha256"),
        ("broken.parquet", lambda place: place.write_bytes(b"PAR1 and no more"), "can't be read"),
        ("pipe.jsonl", os.mkfifo, "is neither a folder nor a file"),
    ):
        place: Path = tmp_path / name
        make_it: Callable[[Path], object] = make
        make_it(place)
        told = trusting("verify", path, "--index", str(place))
        assert (told.code, said in told.err) == (2, True), (name, told.err)
    told = trusting("verify", path, "--index", "s3://bucket/export")
    assert (told.code, "an index is read from a folder or file here; copy the export first" in told.err) == (
        2,
        True,
    )


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda place: place.symlink_to("/dev/zero"),
        lambda place: place.write_text("[" * 100_000 + "]" * 100_000),
    ],
    ids=["pipe", "device", "nested"],
)
def test_an_index_whose_record_is_none_is_nobodys(
    settings: Settings, ours: Ours, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    (tmp_path / "index").mkdir()
    save(tmp_path / "index" / "part-0.jsonl", b'{"job_id": 1, "sha256": "22"}\n')
    make(tmp_path / "index" / "_SUCCESS")
    assert ExportIndex(tmp_path / "index").installations == frozenset()


def test_objects_in_s3_are_read(trusting: Typed, ours: Ours, s3: S3Server, tmp_path: Path) -> None:
    own = trusting.settings.model_copy(update={"s3_endpoint_url": s3.endpoint_url, "s3_region": "us-east-1"})
    typed = Typed(own, tmp_path)
    store = open_store(s3.uri, S3Options(s3.endpoint_url, "us-east-1"))
    store.put("pictures/a.png", ours.body, content_type="image/png")
    store.put("pictures/notes.txt", b"nothing", content_type="text/plain")
    store.put("pictures/.hidden/a.png", ours.body, content_type="image/png")
    for folder in ("pictures/", "pictures"):
        told = typed("verify", f"{s3.uri}/{folder}", "--json")
        assert told.code == 0, told.err
        assert [found["verdict"] for found in told.json] == ["ours"]
        assert "1 file in folders not looked at" in told.err
    (found,) = typed("verify", f"{s3.uri}/pictures/absent.png", "--json").json
    assert (found["verdict"], "absent.png" in found["why"]) == ("unreadable", True)
    (found,) = typed("verify", f"{s3.uri}/absent", "--json").json
    assert (found["verdict"], "absent" in found["why"]) == ("unreadable", True)
    store.put("odd", ours.body, content_type="image/png")
    assert typed("verify", f"{s3.uri}/odd", "--json").code == 0


def test_a_black_picture_is_not_taken_for_one_that_was_blackened(
    trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path
) -> None:
    black = np.zeros((512, 512, 3), dtype=np.uint8)
    change(
        engine,
        "UPDATE images SET safety_verdict = 'blackened', watermark = NULL, iscc = NULL, pixels_sha256 = :pixels",
        pixels=sha256(black.tobytes()).hexdigest(),
    )
    told = trusting("verify", save(tmp_path / "black.png", png(black)), "--json")
    (found,) = told.json
    assert (told.code, found["verdict"], found["row"], found["found_by"]) == (1, "no trace of ours", None, [])
    assert found["why"] == "it has one colour, and so neither a mark nor a code to look up"


def test_a_compressed_gradient_is_like_its_row_by_the_perceptual_hash(
    trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path
) -> None:
    """Compression may change half of the ISCC code of so smooth a picture: the row has one that is far from it."""
    ramp = np.linspace(60, 190, 512, dtype=np.float32)
    smooth = np.repeat(((ramp + ramp[:, None]) / 2).astype(np.uint8)[..., None], 3, axis=2)
    here = this_installation(engine).id
    pixels = embed(smooth, Payload(0, installation_number(here), ours.job).bits, b"nightmill")
    values = "pixels_sha256 = NULL, sha256 = repeat('0', 64), phash = :phash"
    change(engine, f"UPDATE images SET {values}", phash=perceptual_hash(smooth))  # noqa: S608
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=80)
    place = save(tmp_path / "ramp.jpg", stream.getvalue())
    (found,) = trusting("verify", place, "--json", "--quick").json
    assert (found["verdict"], found["found_by"], found["row"]["job"]) == ("ours", ["mark"], ours.job)
    for phash in (None, perceptual_hash(ours.pixels)):
        change(engine, "UPDATE images SET phash = :phash", phash=phash)
        (found,) = trusting("verify", place, "--json", "--quick").json
        assert (found["verdict"], "looks like another picture" in found["why"]) == ("can't tell", True)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with a picture and its manifest beside it."""
    signed = FileSigner(IDENTITY, embeds=False).sign(png(grainy(64)), "image/png", claim())
    assert signed.sidecar is not None
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(signed.body)
    (folder / "a.c2pa").write_bytes(signed.sidecar)
    return folder


def told_of(typed: Typed, where: str) -> tuple[dict[str, object], str]:
    """What `verify` says of the only picture's manifest, and the warning."""
    told = typed("verify", where, "--quick", "--json")
    (found,) = told.json
    assert "not looked at" not in told.err
    return found["manifest"] or {}, found["warning"] or ""


def test_a_manifest_beside_a_picture_is_read_with_it(trusting: Typed, beside: Path) -> None:
    for where in (beside, beside / "a.png"):
        manifest, warning = told_of(trusting, str(where))
        assert (manifest["state"], manifest["is_beside"], warning) == ("trusted", True, "")
    (beside / "a.c2pa").rename(beside / "b.c2pa")
    assert told_of(trusting, str(beside))[0] == {}


def test_a_manifest_beside_an_object_is_read_with_it(
    trusting: Typed, beside: Path, s3: S3Server, tmp_path: Path
) -> None:
    own = trusting.settings.model_copy(update={"s3_endpoint_url": s3.endpoint_url, "s3_region": "us-east-1"})
    typed = Typed(own, tmp_path)
    store = open_store(f"{s3.uri}/{tmp_path.name}", S3Options(s3.endpoint_url, "us-east-1"))
    store.put("a.png", (beside / "a.png").read_bytes(), content_type="image/png")
    assert told_of(typed, f"{store.uri}/a.png")[0] == {}
    store.put("a.c2pa", (beside / "a.c2pa").read_bytes(), content_type="application/c2pa")
    for where in (f"{store.uri}/", f"{store.uri}/a.png"):
        assert told_of(typed, where)[0]["state"] == "trusted"


def test_a_manifest_in_the_file_is_the_one_that_counts(
    trusting: Typed, beside: Path, signer: FileSigner
) -> None:
    signed = signer.sign(png(grainy(64)), "image/png", claim())
    (beside / "a.png").write_bytes(signed.body)
    manifest, _ = told_of(trusting, str(beside))
    assert (manifest["id"], manifest["is_beside"]) == (signed.manifest.id, False)


def test_manifests_that_are_given_with_their_pictures_are_no_pictures(trusting: Typed, beside: Path) -> None:
    (beside / "lonely.c2pa").write_bytes(b"")
    given = [str(beside / name) for name in ("a.c2pa", "a.png", "lonely.c2pa")]
    found = trusting("verify", *given, "--quick", "--json").json
    assert [Path(each["file"]).name for each in found] == ["a.png", "lonely.c2pa"]
    assert found[1]["verdict"] == "unreadable"


def test_a_manifest_that_is_no_longer_beside_its_picture_is_told(
    trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path
) -> None:
    plain = png(ours.pixels)
    path = save(tmp_path / "a.png", plain)
    values = "sha256 = :sha256, c2pa_sidecar_sha256 = repeat('0', 64)"
    change(engine, f"UPDATE images SET {values} WHERE ordinal = 0", sha256=sha256(plain).hexdigest())  # noqa: S608
    (found,) = trusting("verify", path, "--quick", "--json").json
    assert (found["verdict"], found["warning"]) == (
        "ours",
        "its row has a manifest (c2pa_sidecar_sha256), which isn't beside it",
    )
    change(engine, "UPDATE images SET c2pa_sidecar_sha256 = NULL")
    assert trusting("verify", path, "--quick", "--json").json[0]["warning"] is None


@pytest.mark.parametrize("key", [None, "7:a secret of the test"])
def test_what_is_too_plain_to_be_compared_is_ours_under_a_secret_key_alone(
    trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path, key: str | None
) -> None:
    """What differs in codes and hashes of one colour is noise."""
    more = {"watermark_key": key and SecretStr(key)}
    typed = Typed(trusting.settings.model_copy(update=more), tmp_path)
    mark, here = typed.settings.mark_key, this_installation(engine).id
    grey = np.full((512, 512, 3), (200, 120, 140), np.uint8)
    pixels = embed(grey, Payload(mark.number, installation_number(here), ours.job).bits, mark.secret)
    (found,) = typed("verify", save(tmp_path / "a.png", png(pixels)), "--quick", "--json").json
    assert (found["found_by"], found["row"]["job"]) == (["mark"], ours.job)
    assert found["verdict"] == ("ours" if key else "can't tell")
    assert ("too plain to be compared" in (found["why"] or "")) == (key is None)


@pytest.mark.parametrize("tried", [1, 4, 16])
@pytest.mark.parametrize("pixels", [grainy(512), np.full((512, 512, 3), 90, np.uint8)], ids=["part", "plain"])
def test_a_mark_that_may_be_misread_counts_only_with_what_looks_like_its_row(
    pixels: Pixels, tried: int
) -> None:
    place = Place(512, 0.0) if len(np.unique(pixels)) > 1 else None
    mark = Mark(Payload(7, 1, 2), 9.0, place, tried)
    likeness = _likeness(pixels, image_code(pixels), mark)
    assert (likeness.most_bits == BITS) == (tried < 16)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_picture_is_compared_as_its_mark_stands_in_it(is_mirrored: bool) -> None:
    """Not the other way round as well, in which what surrounds a picture that was pasted may look like its row."""
    pixels = grainy(512)
    mark = Mark(Payload(0, 1, 2), 9.0, Place(512, 0.0, is_mirrored=is_mirrored))
    mirrored = image_code(np.ascontiguousarray(pixels[:, ::-1]))
    assert image_code(pixels) != mirrored
    likeness = _likeness(pixels, image_code(pixels), mark)
    assert likeness.code == (mirrored if is_mirrored else image_code(pixels))


def test_changed_pictures_and_exchanged_manifests_are_told(trusting: Typed, beside: Path) -> None:
    other = FileSigner(IDENTITY, embeds=False).sign(png(grainy(80)), "image/png", claim())
    assert other.sidecar is not None
    good = (beside / "a.c2pa").read_bytes()
    (beside / "a.c2pa").write_bytes(other.sidecar)
    manifest, warning = told_of(trusting, str(beside))
    assert (manifest["state"], manifest["is_tampered"]) == ("invalid", True)
    assert "changed since it was signed, or the manifest beside it is another picture's" in warning
    (beside / "a.c2pa").write_bytes(good)
    (beside / "a.png").write_bytes(png(grainy(80)))
    assert told_of(trusting, str(beside))[0]["state"] == "invalid"


def test_what_is_no_manifest_is_told_and_no_link_is_followed(
    trusting: Typed, beside: Path, tmp_path: Path
) -> None:
    sidecar = beside / "a.c2pa"
    sidecar.rename(tmp_path / "elsewhere.c2pa")
    sidecar.symlink_to(tmp_path / "elsewhere.c2pa")
    assert "a.c2pa is a link" in told_of(trusting, str(beside))[1]
    sidecar.unlink()
    sidecar.write_bytes(b"")
    manifest, warning = told_of(trusting, str(beside))
    assert (manifest["state"], warning) == ("unreadable", "the manifest beside it can't be read: it is empty")
    sidecar.write_bytes(b"\0" * ((2 << 20) + 1))
    assert "has more than 2,097,152 bytes" in told_of(trusting, str(beside))[1]
    sidecar.unlink()
    sidecar.mkdir()
    assert "a.c2pa is a folder" in told_of(trusting, str(beside))[1]
