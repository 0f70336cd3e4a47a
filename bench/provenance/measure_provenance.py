"""`provenance`: the cost of signing, a worker's speed with and without marks and manifests, and traced pictures."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from unittest.mock import patch

from pydantic import SecretStr

from bench.backlog import Backlog, open_backlog
from bench.cpu import session_s, single_threaded, worker_context
from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.results import Figure, at_least, at_most
from bench.harness.services import Place
from bench.image_files import grainy
from bench.provenance.simulated_device import DEVICE_S, PacedDevice
from bench.provenance.trace_changed_pictures import measure_traced
from jobs.policy.batch_policy import BatchPolicy
from jobs.states import ImageFormat, WatermarkPolicy
from jobs.storage.image_and_c2pa_sidecar_files import SIDECAR_TYPE
from jobs.storage.open import S3Options, open_store
from models.provenance.image_claim import ImageClaim
from models.provenance.iscc_code import image_code
from models.provenance.sign_file import FileSigner
from models.provenance.signing_identity import Authority, SigningIdentity
from worker import pipeline
from worker.imaging.encode import encode
from worker.lanes.worker_context import WorkerContext
from worker.pipeline import PIPELINE
from worker.stages.generate import Generate

SIDE = 512
_MOST_MS, _MOST_BYTES = 3, 4096


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure with an identity made for it."""
    authority = Authority.create("nightmill bench", 30)
    identity = authority.issue(30)
    return {
        **_signing(place, identity, rounds=2 if is_quick else 15),
        **_pace(place, identity, count=4 if is_quick else 80, rounds=1 if is_quick else 7),
        **measure_traced(authority, count=2 if is_quick else 1000),
    }


def _signing(place: Place, identity: SigningIdentity, rounds: int) -> dict[str, Figure]:
    """Measure signing with reading back, and ISCC codes, for pictures with the grain of photographs."""
    signer, pixels = FileSigner(identity), grainy(SIDE)
    beside = FileSigner(identity, embeds=False)
    files = {format: encode(pixels, format, parameters=None) for format in ImageFormat}
    work = {
        format.value: partial(signer.sign, file.body, file.content_type, _claim())
        for format, file in files.items()
    }
    png = files[ImageFormat.PNG]
    sidecar = beside.sign(png.body, png.content_type, _claim()).sidecar
    assert sidecar is not None
    store = open_store(str(place.folder / "signed"), S3Options())
    times = take_turns(
        rounds,
        {
            "sidecar": _milliseconds(partial(beside.sign, png.body, png.content_type, _claim())),
            "put": _milliseconds(partial(store.put, "a/a.c2pa", sidecar, content_type=SIDECAR_TYPE)),
            **{name: _milliseconds(sign) for name, sign in work.items()},
            "iscc": _milliseconds(partial(image_code, pixels)),
            "unsigned": _milliseconds(partial(encode, pixels, ImageFormat.PNG, parameters=None)),
        },
    )
    encoding = f"encoding the PNG: {times.median('unsigned'):.2f} ms"
    found = {
        "iscc_ms": Figure(times.median("iscc"), "ms", f"{SIDE} x {SIDE}"),
        "sign_sidecar_ms": Figure(times.median("sidecar"), "ms", "a PNG", at_most(_MOST_MS)),
        "sign_sidecar_bytes": Figure(float(len(sidecar)), "bytes", "beside the file", at_most(_MOST_BYTES)),
        "store_sidecar_ms": Figure(times.median("put"), "ms", "in a folder of this host"),
    }
    for format, file in files.items():
        added = len(signer.sign(file.body, file.content_type, _claim()).body) - len(file.body)
        found |= {
            f"sign_{format}_ms": Figure(times.median(format.value), "ms", encoding, at_most(_MOST_MS)),
            f"sign_{format}_bytes": Figure(
                float(added), "bytes", f"{len(file.body):,} bytes", at_most(_MOST_BYTES)
            ),
        }
    return found


def _pace(place: Place, identity: SigningIdentity, count: int, rounds: int) -> dict[str, Figure]:
    """Measure sessions of 512 px images as a whole, with everything on and with marks off, on a device of equal pace.

    The device is a stand-in that takes DEVICE_S an image: a CPU would take so long that nothing else counted.
    """
    with (
        patch.object(
            pipeline, "PIPELINE", [PacedDevice if stage is Generate else stage for stage in PIPELINE]
        ),
        single_threaded(),
        _session(place, "bench_signed", SecretStr(identity.pem.decode()), WatermarkPolicy.REQUIRE) as signed,
        _session(place, "bench_unmarked", None, WatermarkPolicy.OFF) as unmarked,
    ):
        for context, backlog in (signed, unmarked):
            session_s(context, backlog, 2)
        paces = take_turns(
            rounds,
            {
                "signed": lambda: count / session_s(*signed, count),
                "unmarked": lambda: count / session_s(*unmarked, count),
            },
        )
    against = (
        f"watermark=off and no manifests: {paces.median('unmarked'):.2f} images/s, {SIDE} px, "
        f"on a stand-in for a device that draws {1 / DEVICE_S:.0f} images/s"
    )
    return {
        "images_per_unmarked": Figure(paces.ratio("signed", "unmarked"), "ratio", against, at_least(0.95)),
    }


@contextmanager
def _session(
    place: Place, database: str, identity: SecretStr | None, watermark: WatermarkPolicy
) -> Iterator[tuple[WorkerContext, Backlog]]:
    given = {"signing_identity": identity, "c2pa": "off" if identity is None else "on"}
    with worker_context(place, database, given) as context:
        policy = BatchPolicy(watermark=watermark)
        output = context.settings.output
        yield context, open_backlog(context.engine, database, output, steps=2, side=SIDE, policy=policy)


def _claim() -> ImageClaim:
    details = {
        "image": "urn:nightmill:0b8e2a50-4f0a-4c06-9a5c-0b86a4cb8c5f:job:123456789",
        "model": "stable-diffusion-v1-5",
        "model_digest": "ab" * 32,
        "model_license": "CreativeML OpenRAIL-M",
        "seed": "18446744073709551615",
    }
    mark, code = "00beef0000000001", "ISCC:EEA4FESMKUZL3X6I"
    return ImageClaim(
        "000001-0", "1.0", datetime.now(UTC), is_edited=False, details=details, iscc=code, tiled_mark=mark
    )


def _milliseconds(work: Callable[[], object]) -> Callable[[], float]:
    return lambda: 1000 * seconds(work)
