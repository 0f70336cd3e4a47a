"""ISCC code: compute the ISCC Image-Code of the picture, by which `nightmill verify` finds changed copies."""

from collections.abc import Sequence
from dataclasses import replace

from models.provenance.iscc_code import image_code
from worker.item import PipelineItem
from worker.stage import Place, Stage


class IsccCode(Stage):
    """Computes ISCC Image-Codes (ISO 24138) of marked images; withheld ones have none."""

    name = "iscc_code"
    place = Place.BACKGROUND

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their codes."""
        return [item if item.is_withheld else replace(item, iscc=image_code(item.image)) for item in items]
