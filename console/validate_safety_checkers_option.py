"""Further safety checkers that a user names: their labels and thresholds, by the catalogue's cards."""

from collections.abc import Sequence

from jobs.errors import UsageError
from jobs.policy import safety_label_thresholds
from jobs.policy.batch_policy import LONGEST_CHECKERS, BatchPolicy
from jobs.policy.safety_label_thresholds import (
    CATEGORIES,
    OF_IMAGES,
    OF_PROMPTS,
    SERVICE_CHECKERS,
    Thresholds,
)
from jobs.settings import Settings
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import UnknownModelError
from models.store.resolve_checkpoint import checkpoint_path


def with_thresholds_of_cards(policy: BatchPolicy, catalogue: Catalogue) -> BatchPolicy:
    """Return the policy with thresholds for all its checkers: where none is given, that of the classifier's card.

    So a batch is judged by what its policy says, whatever becomes of the card. Raises UsageError for a checker or a
    label that isn't there.
    """
    if policy.safety_checkers is None:
        return policy
    given = safety_label_thresholds.parse(policy.safety_checkers)
    completed: dict[str, dict[str, float]] = {}
    for checker, labels in given.items():
        if checker in SERVICE_CHECKERS:
            completed[checker] = labels
            continue
        card = _classifier(checker, catalogue)
        safety_label_thresholds.check_labels(card.id, labels, card.labels)
        if card.id in completed:
            raise UsageError(f"--set safety_checkers=…: {card.id} is given twice, once as {checker}")
        completed[card.id] = card.label_thresholds | labels
    return policy.model_copy(update={"safety_checkers": _stored(completed)})


def check_is_here(policy: BatchPolicy, catalogue: Catalogue, settings: Settings) -> None:
    """Raise UsageError for a checker that workers of this installation don't have: its files, or address and key."""
    has_service = settings.content_safety_url is not None and settings.content_safety_key is not None
    for checker in policy.checker_thresholds.labels:
        if checker in SERVICE_CHECKERS:
            if not has_service:
                raise UsageError(
                    f"--set safety_checkers={checker}: set NIGHTMILL_CONTENT_SAFETY_URL and "
                    "NIGHTMILL_CONTENT_SAFETY_KEY, for the workers, too"
                )
            continue
        card = catalogue.get(checker)
        path = checkpoint_path(card, catalogue.models_dir)
        if card.builder is None and not path.exists():
            how = f": fetch it with nightmill models pull {card.id}" if card.sources else ""
            raise UsageError(f"--set safety_checkers={checker}: its files aren't at {path}{how}")


def changed_labels(checkers: str | None, changes: Thresholds, catalogue: Catalogue) -> str | None:
    """Return a policy's checkers with other thresholds. Raises UsageError for checkers that it doesn't have."""
    thresholds = safety_label_thresholds.parse(checkers or "")
    for checker, labels in changes.items():
        if checker not in thresholds:
            there = f"it has {', '.join(thresholds)}" if thresholds else "it has none"
            raise UsageError(
                f"labels.{checker}: the batch's images have no scores of such a checker: {there}"
            )
        safety_label_thresholds.check_labels(
            checker, labels, _labels(checker, thresholds[checker], catalogue)
        )
        thresholds[checker] |= labels
    return _stored(thresholds)


def _stored(thresholds: Thresholds) -> str | None:
    """Return thresholds as the policy stores them. Raises UsageError if they are more than it has room for."""
    text = safety_label_thresholds.normalised(thresholds)
    if text is not None and len(text) > LONGEST_CHECKERS:
        raise UsageError(
            f"all labels that flag have {len(text):,} characters with their scores, and may have {LONGEST_CHECKERS:,}: "
            "name fewer checkers or labels, or have fewer thresholds in the cards"
        )
    return text


def _labels(checker: str, stored: dict[str, float], catalogue: Catalogue) -> Sequence[str]:
    """Return a checker's labels; of one whose card is gone, those that the batch has thresholds for."""
    if checker in SERVICE_CHECKERS:
        return CATEGORIES
    card = catalogue.ids_and_aliases().get(checker.casefold())
    return card.labels if card and card.labels else tuple(stored)


def _classifier(name: str, catalogue: Catalogue) -> Card:
    there = [card.id for card in catalogue.cards() if card.family == "classifier"]
    choice = f"there are {', '.join((*there, OF_IMAGES, OF_PROMPTS))}"
    try:
        card = catalogue.get(name)
    except UnknownModelError:
        raise UsageError(f"--set safety_checkers={name}: no such checker; {choice}") from None
    if card.family != "classifier":
        raise UsageError(f"--set safety_checkers={name}: is a {card.family}, not a classifier; {choice}")
    return card
