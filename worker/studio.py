"""The models that this process has loaded, ready for a lane."""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.job import Lane
from jobs.manifest import split_loras
from jobs.settings import Settings
from jobs.states import Scoring
from models.catalogue import Card, Catalogue
from models.checkpoint import Checkpoint, resolve
from models.errors import ModelError
from models.prompt_terms import PromptTerms

if TYPE_CHECKING:
    from models.clip import ClipScorer
    from models.device import Device
    from models.safety import SafetyChecker
    from models.saving import Saving
    from models.stable_diffusion import StableDiffusion
    from models.tokens import TokenCounter
    from models.upscale import Upscaler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """What scores pictures, and the id of its card."""

    model: str
    scorer: "ClipScorer"


@dataclass(frozen=True)
class Kit:
    """All that a lane's pictures need: a model that draws, or an upscaler, or both, and what checks them.

    `loras` are those mixed into the model, in the lane's order.
    """

    card: Card
    checkpoint: Checkpoint
    device: "Device"
    terms: PromptTerms
    tokens: "TokenCounter"
    safety: "SafetyChecker"
    saving: "Saving"
    diffusion: "StableDiffusion | None" = None
    loras: tuple[Checkpoint, ...] = ()
    upscaler: "Upscaler | None" = None
    upscaler_checkpoint: Checkpoint | None = None
    clip: Clip | None = None


class Studio:
    """Loads models when a lane first needs them. One lane's models are kept: the next lane's replace them."""

    def __init__(self, settings: Settings, device_index: int) -> None:
        self.settings = settings
        self.device_index = device_index
        self.terms = PromptTerms.load(settings.prompt_terms)
        self._kits: dict[tuple[str, str, bool, str], Kit] = {}
        self._rows: dict[tuple[str, int, int], int] = {}

    def kit(self, lane: Lane) -> Kit:
        """The lane's kit; ModelError says what is missing."""
        wanted = lane.model, lane.lora, bool(lane.upscale), lane.clip_score
        if wanted not in self._kits:
            self._kits.clear()
            self._kits[wanted] = self._load(lane)
        return self._kits[wanted]

    def models(self) -> set[str]:
        """The models that are loaded."""
        return {model for model, *_ in self._kits}

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

    def _load(self, lane: Lane) -> Kit:
        from models.device import pick_device  # noqa: PLC0415 - torch is imported by the child that renders, when it does
        from models.safety import SafetyChecker  # noqa: PLC0415
        from models.saving import Saving  # noqa: PLC0415
        from models.tokens import TokenCounter  # noqa: PLC0415

        settings = self.settings
        catalogue = Catalogue.load(settings.models_path)
        card = catalogue.get(lane.model)
        device = pick_device(settings.device, index=self.device_index, precision=card.precision)
        saving = Saving.choose(settings.weights, settings.low_memory, device)
        checkpoint = self._resolve(card)
        checking = self._resolve(catalogue.get(_named(card.safety_checker, card, "safety checker")))
        kit = Kit(
            card=card,
            checkpoint=checkpoint,
            device=device,
            terms=self.terms,
            tokens=TokenCounter.load(checkpoint),
            safety=SafetyChecker.load(checking, device),
            saving=saving,
            clip=self._clip(card, lane, catalogue, device),
        )
        if card.family != "upscaler":
            kit = self._with_model(kit, lane, catalogue)
        return self._with_upscaler(kit, catalogue) if lane.upscale else kit

    def _with_model(self, kit: Kit, lane: Lane, catalogue: Catalogue) -> Kit:
        from models.stable_diffusion import StableDiffusion  # noqa: PLC0415

        loras = [(self._resolve(catalogue.get(id)), weight) for id, weight in split_loras(lane.lora)]
        diffusion = StableDiffusion.load(kit.checkpoint, kit.device, loras=loras, saving=kit.saving)
        return replace(kit, diffusion=diffusion, loras=tuple(checkpoint for checkpoint, _ in loras))

    def _with_upscaler(self, kit: Kit, catalogue: Catalogue) -> Kit:
        from models.upscale import Upscaler  # noqa: PLC0415

        card, checkpoint = kit.card, kit.checkpoint
        if card.family != "upscaler":
            checkpoint = self._resolve(catalogue.get(_named(card.upscaler, card, "upscaler")))
        upscaler = Upscaler.load(checkpoint, kit.device, saving=kit.saving)
        return replace(kit, upscaler=upscaler, upscaler_checkpoint=checkpoint)

    def _clip(self, card: Card, lane: Lane, catalogue: Catalogue, device: "Device") -> Clip | None:
        """The model's CLIP; where it isn't there, that matters only if the batch insists."""
        from models.clip import ClipScorer  # noqa: PLC0415

        is_needed = lane.clip_score == Scoring.ON
        if lane.clip_score == Scoring.OFF or (card.clip is None and not is_needed):
            return None
        try:
            checkpoint = self._resolve(catalogue.get(_named(card.clip, card, "clip")))
            return Clip(checkpoint.card.id, ClipScorer.load(checkpoint, device))
        except ModelError as error:
            if is_needed:
                raise
            log.info("no CLIP scores: %s", error)
            return None

    def _resolve(self, card: Card) -> Checkpoint:
        return resolve(card, self.settings.models_path)


def _named(card_id: str | None, card: Card, role: str) -> str:
    if card_id is None:
        raise ModelError(f"model {card.id!r} has no {role}: name one in its card")
    return card_id
