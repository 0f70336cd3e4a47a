"""Signed images, all the way to their rows: on real queue, models and stores, from texts and from pictures."""

import io
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import c2pa
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import Engine

from bench.image_files import grainy
from jobs.db.installation_id import this_installation
from jobs.settings import Settings
from jobs.storage.key_layout import digest_in_key, quarantine_key
from jobs.storage.recognise_own_c2pa_sidecars import is_own_sidecar
from models.provenance.image_claim import SourceType
from models.provenance.iscc_code import image_code
from models.provenance.media_type import media_type_of
from models.provenance.read_manifest import Manifest, ManifestReader, ManifestState
from models.provenance.sign_file import FileSigner
from models.watermark.tiled.embed import embed
from models.watermark.tiled.payload import Payload
from scheduler.ingest.ingest import Ingested
from tests.models.provenance.signed_files import AUTHORITY, IDENTITY, claim, expired_identity
from tests.models.provenance.soft_token import PIN, needs_softhsm, soft_token
from tests.worker.contexts import (
    attempts_of,
    files_in,
    images_of,
    jobs_of,
    only_lane,
    render,
    submit,
    worker_context_for,
)
from tests.worker.test_judge import ALL, NOTHING, judged
from worker.imaging.encode import decode
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}
TRUSTING = ManifestReader(AUTHORITY.certificate)


@pytest.fixture
def signing(settings: Settings, models_folder: Path, tmp_path: Path) -> Settings:
    path = tmp_path / "signing.pem"
    path.write_bytes(IDENTITY.pem)
    given = {"models_dir": models_folder, "retry_delay_s": 0, "signing_identity": str(path)}
    return Settings(**settings.model_dump() | given)


@pytest.fixture
def context(signing: Settings, model_cache: ModelCache, engine: Engine) -> Iterator[WorkerContext]:
    with worker_context_for(signing, engine, model_cache) as context:
        yield context


def bodies(context: WorkerContext, engine: Engine, batch: Ingested) -> list[bytes]:
    return [Path(context.settings.output, image["key"]).read_bytes() for image in images_of(engine, batch)]


def manifest(body: bytes) -> Manifest:
    found = TRUSTING.read(body, media_type_of(body) or "")
    assert found is not None
    return found


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_files_are_signed_and_rows_tell_of_it(
    context: WorkerContext, engine: Engine, tmp_path: Path, format: str
) -> None:
    batch = render(context, tmp_path, [FOX, {**FOX, "prompt": "a blue bird"}], format=format)
    for image, body in zip(images_of(engine, batch), bodies(context, engine, batch), strict=True):
        found, pixels = manifest(body), decode(body)
        assert (found.state, image["c2pa_manifest_id"]) == (ManifestState.TRUSTED, found.id)
        assert found.generation is not None
        assert (
            found.generation["image"] == f"urn:nightmill:{this_installation(engine).id}:job:{image['job_id']}"
        )
        assert found.generation["model_digest"] == image["model_digest"]
        assert (found.generation["seed"], "prompt" in found.generation) == (str(image["seed"]), False)
        assert image["sha256"] == sha256(body).hexdigest()
        assert image["pixels_sha256"] == sha256(pixels.tobytes()).hexdigest()
        assert image["watermark_bit_accuracy"] == 1.0
        assert image["timings"].keys() >= {"sign", "iscc_code"}
        assert image["iscc"] == image_code(pixels)
        with Image.open(io.BytesIO(body)) as opened:
            assert SourceType.GENERATED in str(opened.info.get("xmp") or opened.info["XML:com.adobe.xmp"])


def test_what_the_manifest_tells_of_the_prompt_is_the_batch_s_choice(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    prompt = "ein roter Fuchs 🦊"
    told = {}
    for choice in ("hash", "full"):
        batch = render(
            context, tmp_path, [{**FOX, "prompt": prompt}], c2pa_prompt=choice, c2pa_training="allowed"
        )
        (body,) = bodies(context, engine, batch)
        told[choice] = manifest(body).generation or {}
        with c2pa.Reader("image/png", io.BytesIO(body)) as reader:
            assert '"use": "allowed"' in json.dumps(json.loads(reader.json()))
    assert told["full"]["prompt"] == prompt
    assert told["hash"]["prompt_sha256"] == sha256(prompt.encode()).hexdigest()
    assert "prompt" not in told["hash"]


def test_a_picture_that_an_image_is_made_from_becomes_an_ingredient_and_is_told_of(
    signing: Settings, model_cache: ModelCache, engine: Engine, tmp_path: Path
) -> None:
    with worker_context_for(signing, engine, model_cache) as context:
        parent = context.signer
        assert parent is not None
        marked, stream = embed(grainy(512), Payload(0, 3, 9).bits, b"nightmill"), io.BytesIO()
        Image.fromarray(marked).save(stream, "PNG")
        signed = parent.sign(stream.getvalue(), "image/png", claim())
        (tmp_path / "from.png").write_bytes(signed.body)
        Image.fromarray(grainy(64)).save(tmp_path / "plain.jpg")
        rows: list[dict[str, Any]] = [
            {**FOX, "init_image": str(tmp_path / "from.png"), "num_images": 2},
            {**FOX, "init_image": str(tmp_path / "plain.jpg")},
        ]
        batch = render(context, tmp_path, rows)
        first, second, third = bodies(context, engine, batch)
        images = images_of(engine, batch)
    for body in (first, second):
        found = manifest(body)
        assert (found.state, found.source_type) == (ManifestState.TRUSTED, SourceType.EDITED)
        assert found.ingredients == (signed.manifest.id,)
    assert (manifest(third).source_type, manifest(third).ingredients) == (SourceType.EDITED, ())
    told = images[0]["annotations"]["load_inputs"]["init_image"]
    assert (told["c2pa"]["manifest"], told["c2pa"]["signer"]) == (signed.manifest.id, "Example Studio")
    assert told["mark"] == Payload(0, 3, 9).hex
    assert "load_inputs" not in (images[2]["annotations"] or {})


@pytest.mark.parametrize("given", [{"signing_identity": None}, {"c2pa": "off"}])
def test_without_an_identity_files_are_not_signed(
    signing: Settings, model_cache: ModelCache, engine: Engine, tmp_path: Path, given: dict[str, Any]
) -> None:
    own = Settings(**signing.model_dump() | given)
    with worker_context_for(own, engine, model_cache) as context:
        batch = render(context, tmp_path, [FOX])
        (image,), (body,) = images_of(engine, batch), bodies(context, engine, batch)
    assert image["c2pa_manifest_id"] is None
    assert "sign" not in image["timings"]
    assert TRUSTING.read(body, "image/png") is None


def test_an_identity_that_expires_in_the_night_charges_no_job_and_a_new_one_is_taken_over(
    signing: Settings, model_cache: ModelCache, engine: Engine, tmp_path: Path
) -> None:
    assert signing.signing_identity is not None
    file = Path(signing.signing_identity.get_secret_value())
    file.write_bytes(expired_identity().pem)
    with worker_context_for(signing, engine, model_cache) as context:
        batch = submit(context.settings, engine, tmp_path, [FOX])
        work(context, only_lane(engine, batch))
        (job,) = jobs_of(engine, batch)
        assert (job["state"], attempts_of(engine, batch), context.is_unable()) == ("queued", [], True)
        assert files_in(Path(context.settings.output)) == []
        file.write_bytes(IDENTITY.pem)
        work(context, only_lane(engine, batch))
        assert jobs_of(engine, batch)[0]["state"] == "done"
        for unusable in (expired_identity().pem, b"no identity", None):
            file.unlink() if unusable is None else file.write_bytes(unusable)
            (row,) = images_of(engine, render(context, tmp_path, [FOX]))
            assert row["c2pa_manifest_id"] is not None


def test_a_worker_that_began_without_an_identity_stays_without(
    signing: Settings, model_cache: ModelCache, engine: Engine, tmp_path: Path
) -> None:
    """Else it would name no installation, and leave out ingredients."""
    own = signing.model_copy(update={"signing_identity": None, "c2pa": "auto", "data_dir": tmp_path / "own"})
    with worker_context_for(own, engine, model_cache) as context:
        assert images_of(engine, render(context, tmp_path, [FOX]))[0]["c2pa_manifest_id"] is None
        (tmp_path / "own" / "identity").mkdir(parents=True)
        (tmp_path / "own" / "identity" / "signing.pem").write_bytes(IDENTITY.pem)
        assert context.signer is None
    with worker_context_for(own, engine, model_cache) as context:
        assert context.signer is not None


@needs_softhsm
def test_a_key_in_a_token_signs_and_a_token_that_is_away_charges_no_job(
    signing: Settings,
    model_cache: ModelCache,
    engine: Engine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert isinstance(IDENTITY.key, bytes)
    with soft_token(tmp_path / "token") as token:
        token.put(IDENTITY.key)
        given = SecretStr(token.identity(IDENTITY).decode())
        own = signing.model_copy(update={"signing_identity": given})
        with worker_context_for(own, engine, model_cache) as context:
            batch = render(context, tmp_path, [FOX])
            (body,) = bodies(context, engine, batch)
            assert manifest(body).state is ManifestState.TRUSTED
        token.take_away()
        with worker_context_for(own, engine, model_cache) as context:
            files = files_in(Path(context.settings.output))
            batch = submit(context.settings, engine, tmp_path, [FOX | {"seed": 8}])
            work(context, only_lane(engine, batch))
            (job,) = jobs_of(engine, batch)
            assert (job["state"], attempts_of(engine, batch), context.is_unable()) == ("queued", [], True)
            assert files_in(Path(context.settings.output)) == files
        assert "no token fits pkcs11:token=mill;object=sign" in caplog.text
        assert PIN not in caplog.text
        token.bring_back()
        with worker_context_for(own, engine, model_cache) as context:
            work(context, only_lane(engine, batch))
            assert [job["state"] for job in jobs_of(engine, batch)] == ["done"]


def test_pixels_do_not_depend_on_the_signature(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    one = images_of(engine, render(context, tmp_path, [FOX], reuse="off"))[0]
    other = images_of(engine, render(context, tmp_path, [FOX, FOX], reuse="off"))[0]
    assert (one["pixels_sha256"], one["iscc"]) == (other["pixels_sha256"], other["iscc"])
    assert one["sha256"] != other["sha256"], "the time and the signature differ"


@pytest.fixture
def beside(signing: Settings, model_cache: ModelCache, engine: Engine) -> Iterator[WorkerContext]:
    """A worker that keeps manifests in files beside the images, and reuses images."""
    own = signing.model_copy(update={"c2pa": "sidecar", "reuse": True})
    with worker_context_for(own, engine, model_cache) as context:
        yield context


def state_of_files(output: Path, image: dict[str, Any], key: str = "") -> str:
    """What c2pa says of an image and the manifest beside it, which are all that it is given."""
    file = output / (key or image["key"])
    media_type = media_type_of(file.read_bytes()) or ""
    sidecar = file.with_suffix(".c2pa").read_bytes()
    assert sha256(sidecar).hexdigest() == image["c2pa_sidecar_sha256"]
    assert is_own_sidecar(sidecar, digest_in_key(image["sha256"], image["c2pa_sidecar_sha256"]))
    assert not is_own_sidecar(sidecar, digest_in_key(image["sha256"], None)), (
        "as if it were signed by another"
    )
    assert c2pa.Reader.try_create(media_type, io.BytesIO(file.read_bytes())) is None
    with c2pa.Reader(media_type, io.BytesIO(file.read_bytes()), sidecar) as reader:
        told = json.loads(reader.json())
    assert told["active_manifest"] == image["c2pa_manifest_id"]
    return str(told["validation_state"])


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_manifests_are_kept_beside_files_that_stay_as_they_are(
    beside: WorkerContext, context: WorkerContext, engine: Engine, tmp_path: Path, format: str
) -> None:
    output = Path(beside.settings.output)
    (image,) = images_of(engine, render(beside, tmp_path, [FOX], format=format, reuse=False))
    body = (output / image["key"]).read_bytes()
    assert state_of_files(output, image) == "Valid"
    assert (image["sha256"], image["bytes"]) == (sha256(body).hexdigest(), len(body))
    assert image["watermark_bit_accuracy"] == 1.0
    assert b"trainedAlgorithmicMedia" in body
    changed = bytearray(body)
    changed[-40] ^= 1
    found = ManifestReader().read(
        bytes(changed), image_type(format), (output / image["key"]).with_suffix(".c2pa").read_bytes()
    )
    assert found is not None
    assert (found.state, found.is_tampered) == (ManifestState.INVALID, True)
    (embedded,) = images_of(engine, render(context, tmp_path, [FOX], format=format))
    assert (embedded["c2pa_sidecar_sha256"], embedded["pixels_sha256"] is None) == (None, False)
    with worker_context_for(
        beside.settings.model_copy(update={"c2pa": "off"}), engine, beside.model_cache
    ) as off:
        (unsigned,) = images_of(engine, render(off, tmp_path, [FOX], format=format, watermark="off"))
        (again,) = images_of(
            engine, render(beside, tmp_path, [FOX], format=format, watermark="off", reuse=False)
        )
    assert again["sha256"] == unsigned["sha256"]
    assert again["key"].split(".")[1] != unsigned["key"].split(".")[1]


def image_type(format: str) -> str:
    return f"image/{format}"


def test_manifests_of_input_images_are_in_the_sidecar(
    beside: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    signed = FileSigner(IDENTITY).sign(png_of(tmp_path), "image/png", claim())
    source = tmp_path / "source.png"
    source.write_bytes(signed.body)
    row = {**FOX, "init_image": str(source), "mode": "image2image", "strength": 0.5}
    (image,) = images_of(engine, render(beside, tmp_path, [row]))
    file = Path(beside.settings.output, image["key"])
    found = TRUSTING.read(file.read_bytes(), "image/png", file.with_suffix(".c2pa").read_bytes())
    assert found is not None
    assert (found.state, found.ingredients) == (ManifestState.TRUSTED, (signed.manifest.id,))


def png_of(tmp_path: Path) -> bytes:
    Image.fromarray(grainy(64)).save(tmp_path / "grainy.png")
    return (tmp_path / "grainy.png").read_bytes()


@pytest.mark.parametrize("harm", [None, "missing", "damaged"])
def test_the_manifest_is_copied_with_a_reused_image(
    beside: WorkerContext, engine: Engine, tmp_path: Path, harm: str | None
) -> None:
    output = Path(beside.settings.output)
    (first,) = images_of(engine, render(beside, tmp_path, [FOX]))
    sidecar = (output / first["key"]).with_suffix(".c2pa")
    if harm == "missing":
        sidecar.unlink()
    elif harm == "damaged":
        sidecar.write_bytes(sidecar.read_bytes()[:-1])
    (second,) = images_of(engine, render(beside, tmp_path, [FOX], output=str(tmp_path / "other")))
    assert second["reused_from"] == (None if harm else first["id"])
    assert state_of_files(tmp_path / "other", second) == "Valid"
    is_same = second["c2pa_sidecar_sha256"] == first["c2pa_sidecar_sha256"]
    assert is_same == (harm is None)


def test_a_file_with_its_manifest_inside_is_no_copy_of_one_with_it_beside(
    beside: WorkerContext, context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    render(context, tmp_path, [FOX])
    (image,) = images_of(engine, render(beside, tmp_path, [FOX]))
    assert (image["reused_from"], image["c2pa_sidecar_sha256"] is None) == (None, False)


def test_manifests_go_into_quarantine_and_out_of_it(
    beside: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    rows = [FOX | {"model": "flagged"}, FOX]
    batch = render(beside, tmp_path, rows, safety="quarantine")
    output = Path(beside.settings.output)

    def lying() -> list[tuple[str, str]]:
        return [(name.split("/")[1], name.rpartition(".")[2]) for name in files_in(output)]

    flagged, fine = [("quarantine", "c2pa"), ("quarantine", "png")], [("images", "c2pa"), ("images", "png")]
    assert lying() == [*fine, *flagged]
    assert judged(beside, batch, NOTHING).restored == 1
    assert lying() == [*fine, *fine]
    assert [state_of_files(output, image) for image in images_of(engine, batch)] == ["Valid"] * 2
    before = images_of(engine, batch)
    assert judged(beside, batch, ALL).quarantined_files == 2
    assert lying() == [*flagged, *flagged]
    for image in before:
        assert state_of_files(output, image, quarantine_key(image["key"])) == "Valid"
    sidecar = (output / quarantine_key(before[0]["key"])).with_suffix(".c2pa")
    sidecar.write_bytes(b"damaged")
    freed = judged(beside, batch, NOTHING)
    assert (freed.restored, freed.queued) == (1, 1)  # that of the damaged one is rendered again
    assert [state_of_files(output, image) for image in images_of(engine, batch)] == ["Valid"]


def test_blocked_images_that_arent_kept_go_with_their_manifests(
    beside: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    batch = render(beside, tmp_path, [FOX], safety="block")
    assert len(files_in(Path(beside.settings.output))) == 2
    assert judged(beside, batch, ALL).deleted_files == 1
    assert files_in(Path(beside.settings.output)) == []
