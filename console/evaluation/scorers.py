"""Scorers of an evaluation: the CLIP named by the models' cards, and the geometric judge of the shapes models."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from console.evaluation.measure_by_column import Instruments
from console.session import Session
from console.terminal.output import note
from jobs.batches.actions import BatchStatus
from jobs.errors import ObjectStoreError, UsageError
from jobs.storage.open import ObjectStore
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError, UnknownModelError
from models.store.resolve_checkpoint import Checkpoint, resolve

if TYPE_CHECKING:
    from models.assess.safety_checker import Pixels

Scorer = Callable[[Sequence["Pixels"], Sequence[str]], list[float]]


def instruments_for(
    open_session: Session, found: BatchStatus, made: Sequence[str], model: str | None, match: bool | None
) -> Instruments:
    """Return the instruments for a batch whose pictures the models `made` rendered; CLIP is loaded at its first use.

    `model` names a CLIP other than the cards'; `match` says whether pictures are judged, with None meaning those of the
    shapes models. Raises UsageError and CheckpointError if nothing can be measured.
    """
    catalogue = Catalogue.load(open_session.settings.models_path)
    is_judged = {name: match if match is not None else name.split("-")[0] == "shapes" for name in made}
    clip = _clip(catalogue, made, model, is_needed=not any(is_judged.values()))
    store = open_session.batch_store(found)
    return Instruments(
        read=lambda record: _read(store, record),
        clip_model=clip.card.id if clip else None,
        score=_scorer(clip, open_session.settings.device) if clip else None,
        judge=_judge() if any(is_judged.values()) else None,
        judges=lambda name: is_judged[name],
    )


def _clip(catalogue: Catalogue, made: Iterable[str], model: str | None, is_needed: bool) -> Checkpoint | None:
    """Return the CLIP that is asked for, or else the one that the models' cards name, if it is needed or available."""
    if model is not None:
        card = catalogue.get(model)
        if card.family != "clip":
            raise UsageError(f"--model {model}: is a {card.family}, not a CLIP; {_clips(catalogue)}")
        return resolve(card, catalogue.models_dir)
    cards = {card.id: card for card in (_named(catalogue, name) for name in made) if card}
    if len(cards) > 1:
        raise UsageError(
            f"the batch's models are scored by different CLIPs ({', '.join(cards)}), whose scores can't be compared: "
            "choose one with --model"
        )
    if not cards:
        if is_needed:
            raise UsageError(
                f"no CLIP is named by the cards of {', '.join(made)}: choose one with --model; {_clips(catalogue)}"
            )
        return None
    try:
        return resolve(next(iter(cards.values())), catalogue.models_dir)
    except CheckpointError as error:
        if is_needed:
            raise
        note(f"no CLIP score: {error}")
        return None


def _named(catalogue: Catalogue, model: str) -> Card | None:
    try:
        clip = catalogue.get(model).clip
    except UnknownModelError:
        return None
    return catalogue.get(clip) if clip else None


def _clips(catalogue: Catalogue) -> str:
    ids = [card.id for card in catalogue.cards() if card.family == "clip"]
    return f"there are {', '.join(ids)}" if ids else "the catalogue has none"


def _scorer(clip: Checkpoint, device: str) -> Scorer:
    """Return a scorer that loads the CLIP at its first use: recorded scores don't need it."""
    loaded: list[Any] = []

    def score(images: Sequence["Pixels"], prompts: Sequence[str]) -> list[float]:
        from models.assess.clip_score import ClipScorer  # noqa: PLC0415 - torch takes seconds to import
        from models.runtime.device import pick_device  # noqa: PLC0415

        if not loaded:
            loaded.append(ClipScorer.load(clip, pick_device(device, precision=clip.card.precision)))
        scores: list[float] = loaded[0].score(images, prompts)
        return scores

    return score


def _judge() -> Callable[[str, "Pixels"], bool | None]:
    from models.shapes.prompt_match import judge  # noqa: PLC0415 - only some batches need it

    return judge


def _read(store: ObjectStore, record: dict[str, Any]) -> bytes:
    body = store.get(record["key"])
    if hashlib.sha256(body).hexdigest() != record["sha256"]:
        raise ObjectStoreError(
            f"{store.locate(record['key'])}: is not the picture that was made (its SHA-256 differs); "
            "put the right file there, or render the batch anew under another --name"
        )
    return body
