"""What a manifest says of an image: who made it, with which model, and which row it is; as C2PA assertions.

Names of assertions, actions and fields: C2PA specification 2.2, chapters 18 and 19; source types: IPTC
(https://cv.iptc.org/newscodes/digitalsourcetype/); `cawg.training-mining`: CAWG Training and Data Mining Assertion 1.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

GENERATION = "org.nightmill.generation"
TILED_MARK = "org.nightmill.tiled.1"
"""Name of the soft binding by nightmill's own mark; it isn't in C2PA's list of soft binding algorithms."""
ISCC = "io.iscc.v0"

_TRAINING_USES = (
    "cawg.ai_generative_training",
    "cawg.ai_training",
    "cawg.data_mining",
)


class SourceType(StrEnum):
    """IPTC digital source types of images of this kind."""

    GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    """Made by a model from a text."""
    EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    """Made by a model from another picture."""


@dataclass(frozen=True)
class ImageClaim:
    """What is said of one image. `details` are the fields of `org.nightmill.generation`, JSON values of few bytes."""

    title: str
    version: str
    """Of nightmill."""
    created_at: datetime
    is_edited: bool
    """Whether it was made from another picture."""
    details: Mapping[str, Any]
    iscc: str | None = None
    tiled_mark: str | None = None
    """Payload of the mark in hex."""
    has_other_mark: bool = False
    may_train: bool = False
    """Whether others may train models with it."""

    @property
    def source_type(self) -> SourceType:
        """How the picture came to be."""
        return SourceType.EDITED if self.is_edited else SourceType.GENERATED

    def manifest(self, *, has_parent: bool) -> dict[str, Any]:
        """Return the manifest's definition; `has_parent`: c2pa adds an ingredient and the action that opens it."""
        return {
            "claim_generator_info": [self._agent],
            "title": self.title,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": self._actions(has_parent)}},
                {"label": "cawg.training-mining", "data": {"entries": self._training()}},
                *({"label": "c2pa.soft-binding", "data": binding} for binding in self._soft_bindings()),
                {"label": GENERATION, "data": dict(self.details)},
            ],
        }

    @property
    def _agent(self) -> dict[str, str]:
        return {"name": "nightmill", "version": self.version}

    def _actions(self, has_parent: bool) -> Sequence[dict[str, Any]]:
        made = {
            "action": "c2pa.edited" if has_parent else "c2pa.created",
            "when": self.created_at.isoformat(timespec="seconds"),
            "digitalSourceType": self.source_type,
            "softwareAgent": self._agent,
        }
        if self.tiled_mark is not None:
            return [made, {"action": "c2pa.watermarked.bound"}]
        return [made, {"action": "c2pa.watermarked.unbound"}] if self.has_other_mark else [made]

    def _training(self) -> dict[str, Any]:
        use = {"use": "allowed" if self.may_train else "notAllowed"}
        return dict.fromkeys(_TRAINING_USES, use)

    def _soft_bindings(self) -> list[dict[str, Any]]:
        values = ((TILED_MARK, self.tiled_mark), (ISCC, self.iscc))
        return [
            {"alg": algorithm, "blocks": [{"scope": {}, "value": value}]}
            for algorithm, value in values
            if value is not None
        ]
