"""ISCC code: compute the ISCC Image-Code of the picture, by which `nightmill verify` finds changed copies."""

from collections.abc import Sequence
from dataclasses import replace

from jobs.states import ImageFormat
from models.provenance.iscc_code import image_code
from worker.imaging.encode import decode
from worker.item import PipelineItem, Pixels
from worker.stage import Place, Stage


class IsccCode(Stage):
    """Computes ISCC Image-Codes (ISO 24138) of pictures as they are in their files; withheld ones have none."""

    name = "iscc_code"
    place = Place.BACKGROUND

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their codes."""
        return [
            item if item.is_withheld else replace(item, iscc=image_code(_delivered(item))) for item in items
        ]


def _delivered(item: PipelineItem) -> Pixels:
    """Return the pixels of the file, which compression has changed unless it is a PNG."""
    assert item.encoded is not None
    return item.image if item.encoded.format == ImageFormat.PNG else decode(item.encoded.body)
