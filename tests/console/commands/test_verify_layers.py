"""`nightmill verify` by signed manifests, digests and ISCC codes, in the database and in an export."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import Engine

from bench.image_files import grainy
from jobs.db.installation_id import this_installation
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from models.provenance.iscc_code import image_code
from models.provenance.sign_file import FileSigner
from models.watermark.blocks import Pixels
from models.watermark.tiled.embed import embed
from models.watermark.tiled.payload import Payload, installation_number
from tests.console.conftest import Typed
from tests.factories import change, image, lanes_of, make_batch, take
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
    body = signer.sign(png(pixels), "image/png", claim(details={"image": urn})).body
    row = replace(
        image(first),
        sha256=sha256(body).hexdigest(),
        pixels_sha256=sha256(pixels.tobytes()).hexdigest(),
        iscc=image_code(pixels),
        watermark=payload.hex,
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


def test_each_layer_alone_finds_the_row(trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path) -> None:
    change(engine, "UPDATE images SET sha256 = repeat('0', 64), pixels_sha256 = NULL")
    plain = grainy(512)
    stream = io.BytesIO()
    Image.fromarray(plain).resize((300, 300)).save(stream, "JPEG", quality=60)
    cases = {
        "signed.png": (
            FileSigner(IDENTITY).sign(png(plain), "image/png", claim(details={"image": ours.urn})).body,
            "manifest",
        ),
        "marked.png": (png(ours.pixels), "mark"),
        "small.jpg": (stream.getvalue(), "iscc"),
    }
    for name, (body, layer) in cases.items():
        (found,) = trusting("verify", save(tmp_path / name, body), "--json", "--quick").json
        assert (found["found_by"], found["row"]["job"]) == ([layer], ours.job), name
        assert found["verdict"] == ("similar to ours" if layer == "iscc" else "ours")
    change(engine, "UPDATE images SET pixels_sha256 = :digest", digest=sha256(plain.tobytes()).hexdigest())
    (found,) = trusting("verify", save(tmp_path / "plain.png", png(plain)), "--json").json
    assert (found["digest"], found["found_by"], found["verdict"]) == ("pixels", ["digest"], "ours")


def test_a_changed_picture_is_told_as_changed(trusting: Typed, ours: Ours, tmp_path: Path) -> None:
    body = bytearray(ours.body)
    body[-60] ^= 1  # the last chunk's checksum, or pixels: decoded or not, it isn't what was signed
    told = trusting("verify", save(tmp_path / "a.png", bytes(body)), "--json", "--quick").json[0]
    assert told["verdict"] in ("ours", "unreadable")
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


def test_a_signature_of_a_stranger_is_no_proof(
    typed: Typed, ours: Ours, signer: FileSigner, tmp_path: Path
) -> None:
    """Anybody can sign that a picture is of this installation."""
    forged = signer.sign(png(grainy(128)), "image/png", claim(details={"image": ours.urn})).body
    path = save(tmp_path / "forged.png", forged)
    (found,) = typed("verify", path, "--json", "--quick").json
    assert (found["verdict"], found["manifest"]["state"], found["row"]) == ("no trace of ours", "valid", None)
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(AUTHORITY.certificate)
    (found,) = typed("verify", path, "--json", "--quick", "--trust", str(trusted)).json
    assert (found["verdict"], found["found_by"]) == ("ours", ["manifest"])
    refused = typed("verify", path, "--trust", save(tmp_path / "no.pem", b"nothing"))
    assert (refused.code, "holds no certificates" in refused.err) == (2, True)


def test_a_mark_that_was_put_into_another_picture_is_noticed(
    trusting: Typed, engine: Engine, ours: Ours, tmp_path: Path
) -> None:
    here = installation_number(this_installation(engine).id)
    other = embed(grainy(512)[::-1, ::-1].copy(), Payload(0, here, ours.job).bits, b"nightmill")
    told = trusting("verify", save(tmp_path / "a.png", png(other)), "--json")
    assert (told.code, told.json[0]["verdict"]) == (2, "can't tell")
    assert "looks like another picture than its row's" in told.json[0]["why"]


def test_layers_that_contradict_each_other(
    trusting: Typed, ours: Ours, signer: FileSigner, tmp_path: Path
) -> None:
    urn = ours.urn.rpartition(":")[0] + f":{ours.job + 1}"
    pixels = ours.pixels.copy()
    pixels[0, 0] ^= 1  # not the digest of a row
    body = signer.sign(png(pixels), "image/png", claim(details={"image": urn})).body
    told = trusting("verify", save(tmp_path / "a.png", body), "--json")
    assert (told.code, told.json[0]["verdict"]) == (2, "can't tell")
    assert told.json[0]["why"] == (
        f"they contradict each other: the manifest of job {ours.job + 1} and the mark of job {ours.job}"
    )


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


def test_what_is_no_index_is_refused(trusting: Typed, ours: Ours, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", ours.body)
    for name, make, said in (
        ("empty", lambda place: place.mkdir(), "holds no .parquet, .jsonl or .csv"),
        ("absent", Path.exists, "isn't there"),
        ("other.csv", lambda place: place.write_text("a,b\n1,2\n"), "has no column job_id, sha256"),
        ("broken.parquet", lambda place: place.write_bytes(b"PAR1 and no more"), "can't be read"),
    ):
        place: Path = tmp_path / name
        make_it: Callable[[Path], object] = make
        make_it(place)
        told = trusting("verify", path, "--index", str(place))
        assert (told.code, said in told.err) == (2, True), (name, told.err)


def test_objects_in_s3_are_read(trusting: Typed, ours: Ours, s3: S3Server, tmp_path: Path) -> None:
    own = trusting.settings.model_copy(update={"s3_endpoint_url": s3.endpoint_url, "s3_region": "us-east-1"})
    typed = Typed(own, tmp_path)
    store = open_store(s3.uri, S3Options(s3.endpoint_url, "us-east-1"))
    store.put("pictures/a.png", ours.body, content_type="image/png")
    store.put("pictures/notes.txt", b"nothing", content_type="text/plain")
    told = typed("verify", f"{s3.uri}/pictures/", "--json")
    assert told.code == 0, told.err
    assert [found["verdict"] for found in told.json] == ["ours"]
    assert "1 file in folders not looked at" in told.err
    (found,) = typed("verify", f"{s3.uri}/pictures/absent.png", "--json").json
    assert (found["verdict"], "absent.png" in found["why"]) == ("unreadable", True)
