"""How many changed pictures `nightmill verify` traces back to their rows, without their manifests."""

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from bench.harness.progress import note
from bench.harness.results import Figure, at_least, at_most
from bench.watermark_robustness.photographs_and_drawings import drawings, photographs
from bench.watermark_robustness.picture_changes import ALIGNED, JPEG_80, SEARCHED, one_after_the_other
from console.provenance_lookup.export_index import ExportIndex
from console.provenance_lookup.trace_picture import PictureTracer
from console.provenance_lookup.weigh_claims import Verdict
from models.assess.perceptual_hash import perceptual_hash
from models.provenance.iscc_code import image_code
from models.provenance.signing_identity import Authority
from models.watermark.blocks import Pixels
from models.watermark.tiled.embed import embed
from models.watermark.tiled.payload import Payload, installation_number

KEY = b"a key of the benchmark"
HERE = UUID("0b8e2a50-4f0a-4c06-9a5c-0b86a4cb8c5f")
FIRST_JOB = 1_000_000
DRAWN = 5
"""One in so many pictures is drawn."""
SEARCHED_SHARE = 7
"""One in so many pictures is tried where its mark has to be searched for: of all kinds of drawings, too."""

CHANGES: dict[str, tuple[Callable[[Pixels], Pixels], bool, float]] = {
    "metadata_stripped": (ALIGNED["png"], False, 0.99),
    "jpeg_80": (JPEG_80, False, 0.99),
    "half_size": (ALIGNED["half_size"], False, 0.99),
    "crop_10": (SEARCHED["crop_10"], True, 0.99),
    "screenshot": (SEARCHED["screenshot"], True, 0.99),
    "all": (
        one_after_the_other(JPEG_80, ALIGNED["half_size"], SEARCHED["crop_10"], SEARCHED["screenshot"]),
        True,
        0.9,
    ),
}
"""What is done to pictures, whether their mark has to be searched for then, and the share that should be traced."""


def measure_traced(authority: Authority, count: int) -> dict[str, Figure]:
    """Mark pictures, write an export of their rows, change the pictures, and trace them by the export."""
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as temporary:
        marked = [_marked(pixels, number) for number, pixels in enumerate(_pictures(count))]
        index = ExportIndex(_exported(Path(temporary), marked))
        index.installations = frozenset({HERE})
        tracer = PictureTracer({7: KEY}, authority.certificate, index, searches=True)
        found: dict[str, Figure] = {}
        for name, (change, is_searched, goal) in CHANGES.items():
            numbers = range(0, count, SEARCHED_SHARE if is_searched and count > SEARCHED_SHARE else 1)
            found |= _traced(tracer, name, {number: change(marked[number]) for number in numbers}, goal)
        strangers = list(_strangers(max(1, count // 20), rng))
        found |= _mistaken(tracer, strangers)
    return found


def _pictures(count: int) -> Iterator[Pixels]:
    drawn = drawings(count // DRAWN + 1)
    for number, photograph in enumerate(photographs(count, seed=7)):
        yield next(drawn) if number % DRAWN == 0 else photograph


def _strangers(count: int, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield unmarked crops of the same photographs, which are likely to be mistaken, if any are."""
    return photographs(count, seed=int(rng.integers(1 << 30)))


def _marked(pixels: Pixels, number: int) -> Pixels:
    return embed(pixels, Payload(7, installation_number(HERE), FIRST_JOB + number).bits, KEY)


def _exported(folder: Path, marked: list[Pixels]) -> Path:
    columns = {
        "image_id": list(range(len(marked))),
        "job_id": [FIRST_JOB + number for number in range(len(marked))],
        "sha256": ["0" * 64] * len(marked),
        "pixels_sha256": [None] * len(marked),  # else it would trace the picture whose metadata is gone
        "iscc": [image_code(pixels) for pixels in marked],
        "phash": [perceptual_hash(pixels) for pixels in marked],
    }
    path = folder / "part-00000.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def _traced(tracer: PictureTracer, name: str, pictures: dict[int, Pixels], goal: float) -> dict[str, Figure]:
    """Return the share whose own row is found, by the mark or by the ISCC code, and the pictures with a wrong row."""
    right = wrong = by_code = 0
    for number, pixels in pictures.items():
        told = tracer.trace(_file(pixels), name)
        is_told = told["row"] is not None and told["verdict"] in (Verdict.OURS, Verdict.SIMILAR)
        is_right = is_told and told["row"]["job"] == FIRST_JOB + number
        right += is_right
        wrong += is_told and not is_right
        by_code += is_right and told["verdict"] == Verdict.SIMILAR
    note(f"{name}: {right} of {len(pictures)}, {by_code} of them by ISCC, {wrong} wrong")
    what = f"{len(pictures)} pictures, {by_code} of them by the ISCC code alone"
    return {
        f"traced_{name}": Figure(right / len(pictures), "ratio", what, at_least(goal)),
        f"wrong_{name}": Figure(float(wrong), "pictures", f"{len(pictures)} pictures"),
    }


def _mistaken(tracer: PictureTracer, pictures: list[Pixels]) -> dict[str, Figure]:
    verdicts = [tracer.trace(_file(pixels), "unmarked")["verdict"] for pixels in pictures]
    what = f"{len(verdicts)} unmarked crops of the same photographs"
    return {
        "strangers_ours": Figure(float(verdicts.count(Verdict.OURS)), "pictures", what, at_most(0)),
        "strangers_similar": Figure(float(verdicts.count(Verdict.SIMILAR)), "pictures", what),
    }


def _file(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
