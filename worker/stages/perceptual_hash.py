"""Perceptual hash: describe an image by 64 bits, by which `nightmill duplicates` finds near-identical images."""

from collections.abc import Sequence
from dataclasses import replace

from models.assess.perceptual_hash import perceptual_hash
from worker.item import PipelineItem
from worker.stage import Place, Stage


class PerceptualHash(Stage):
    """Hashes images before they are marked, so that the hash doesn't depend on the mark; withheld ones have none."""

    name = "perceptual_hash"
    place = Place.BACKGROUND

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their hashes."""
        return [
            item if item.is_withheld else replace(item, phash=perceptual_hash(item.image)) for item in items
        ]
