"""The models that this process has loaded, ready for a lane."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.job import Lane
from jobs.settings import Settings
from models.catalogue import Card, Catalogue
from models.checkpoint import Checkpoint, resolve
from models.errors import ModelError
from models.prompt_terms import PromptTerms

if TYPE_CHECKING:
    from models.device import Device
    from models.safety import SafetyChecker
    from models.stable_diffusion import StableDiffusion
    from models.tokens import TokenCounter
    from models.upscale import Upscaler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kit:
    """All that a lane's pictures need; `rows` is the shape of the device batch, lowered when memory runs out."""

    card: Card
    checkpoint: Checkpoint
    device: "Device"
    terms: PromptTerms
    tokens: "TokenCounter"
    text2image: "StableDiffusion"
    safety: "SafetyChecker"
    upscaler: "Upscaler | None"
    upscaler_checkpoint: Checkpoint | None


class Studio:
    """Loads models when a lane first needs them. One lane's models are kept: the next lane's replace them."""

    def __init__(self, settings: Settings, device_index: int) -> None:
        self.settings = settings
        self.device_index = device_index
        self.terms = PromptTerms.load(settings.prompt_terms)
        self._kits: dict[tuple[str, bool], Kit] = {}
        self._rows: dict[tuple[str, int, int], int] = {}

    def kit(self, lane: Lane) -> Kit:
        """The lane's kit; ModelError says what is missing."""
        wanted = lane.model, bool(lane.upscale)
        if wanted not in self._kits:
            self._kits.clear()
            self._kits[wanted] = self._load(*wanted)
        return self._kits[wanted]

    def rows(self, lane: Lane) -> int:
        """Images in one device batch of the lane."""
        default = self.settings.gpu_rows or self.kit(lane).device.rows
        return self._rows.get((lane.model, lane.width, lane.height), default)

    def lower_rows(self, lane: Lane) -> bool:
        """Halve the lane's device batch after memory ran out; False when it holds one image already."""
        rows = self.rows(lane)
        if rows > 1:
            self._rows[lane.model, lane.width, lane.height] = rows // 2
            log.warning(
                "out of memory: %s at %dx%d goes on with %d rows",
                lane.model,
                lane.width,
                lane.height,
                rows // 2,
            )
        return rows > 1

    def _load(self, model: str, is_upscaled: bool) -> Kit:
        from models.device import pick_device  # noqa: PLC0415 - torch is imported by the child that renders, when it does
        from models.safety import SafetyChecker  # noqa: PLC0415
        from models.stable_diffusion import StableDiffusion  # noqa: PLC0415
        from models.tokens import TokenCounter  # noqa: PLC0415
        from models.upscale import Upscaler  # noqa: PLC0415

        catalogue = Catalogue.load(self.settings.models_path)
        card = catalogue.get(model)
        device = pick_device(self.settings.device, index=self.device_index, precision=card.precision)
        checkpoint = self._resolve(card)
        upscaling = (
            self._resolve(catalogue.get(_named(card.upscaler, card, "upscaler"))) if is_upscaled else None
        )
        checking = self._resolve(catalogue.get(_named(card.safety_checker, card, "safety checker")))
        return Kit(
            card=card,
            checkpoint=checkpoint,
            device=device,
            terms=self.terms,
            tokens=TokenCounter.load(checkpoint),
            text2image=StableDiffusion.load(checkpoint, device),
            safety=SafetyChecker.load(checking, device),
            upscaler=Upscaler.load(upscaling, device) if upscaling else None,
            upscaler_checkpoint=upscaling,
        )

    def _resolve(self, card: Card) -> Checkpoint:
        return resolve(card, self.settings.models_path)


def _named(card_id: str | None, card: Card, role: str) -> str:
    if card_id is None:
        raise ModelError(f"model {card.id!r} has no {role}: name one in its card")
    return card_id
