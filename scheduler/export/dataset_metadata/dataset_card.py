"""The dataset card `README.md`: what is in the dataset, who made it by what, and what may be done with it."""

from collections.abc import Sequence
from importlib.metadata import version

import yaml

from jobs.policy.batch_policy import BatchPolicy
from jobs.states import FINISHED, OPEN, SafetyStrength
from models.catalogue.card import Card
from scheduler.export.dataset_metadata import data_contract
from scheduler.export.dataset_metadata.dataset import Dataset
from scheduler.export.dataset_metadata.dataset_card_metadata import card_metadata
from scheduler.export.dataset_metadata.how_to_reproduce import reproduction
from scheduler.export.dataset_metadata.markdown import escaped, megabytes, table
from scheduler.export.dataset_metadata.query_dataset_facts import MOST_CLASSES, Facts, Group, images_of
from scheduler.export.exporters import WrittenFile

NAME = "README.md"

_STATES = (*FINISHED, *OPEN)


def card(dataset: Dataset, facts: Facts, pictures: Sequence[WrittenFile]) -> str:
    """Return the card in Markdown, with the metadata of the Hugging Face hub in front."""
    front = yaml.safe_dump(card_metadata(dataset, facts), sort_keys=False, allow_unicode=True, width=120)
    sections = [
        _about(dataset, facts, pictures),
        _counts(dataset, facts),
        _models(facts),
        _safety(facts),
        _marks(facts),
        reproduction(facts),
        _files(dataset),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _about(dataset: Dataset, facts: Facts, pictures: Sequence[WrittenFile]) -> str:
    shown = "".join(
        f'<img src="{picture.name}" width="24%" alt="an image of the dataset">' for picture in pictures
    )
    span = f", rendered from {facts.first:%Y-%m-%d} to {facts.last:%Y-%m-%d}" if facts.first else ""
    made = ", ".join(f"`{name}`" for name in (model for (model,) in facts.by("model")))
    by = f" by {made}" if made else ""
    size = megabytes(facts.total("bytes"))
    chosen = f" Only images with `{where}` are in it." if (where := dataset.exporter.options.where) else ""
    return (
        f"# {dataset.name}\n\n{facts.images:,} synthetic images ({size}){span}{by}, with the prompt, "
        "the seed and all else that is needed to make each again. Written by nightmill "
        f"{version('nightmill')}.{chosen}\n\n{shown}"
    ).rstrip()


def _counts(dataset: Dataset, facts: Facts) -> str:
    totals = {state: sum(batch.counts[state] for batch in dataset.batches) for state in _STATES}
    rejected = sum(batch.rejected for batch in dataset.batches)
    states = [(state, f"{count:,}") for state, count in totals.items() if count]
    sizes = [
        (f"{width} x {height}", format, f"{images_of(groups):,}", megabytes(sum(g.bytes for g in groups)))
        for (width, height, format), groups in list(facts.by("width", "height", "format").items())[:20]
    ]
    lines = [
        "## What is in it",
        "",
        table(["state", "images"], [*states, ("rows rejected", f"{rejected:,}")]),
        *_classes(facts),
        "",
        table(["pixels", "format", "images", "size"], sizes),
    ]
    if truncated := facts.total("truncated"):
        lines += [
            "",
            f"Images of whose prompt the model read only a part (`prompt_truncated`): {truncated:,}.",
        ]
    return "\n".join(lines)


def _classes(facts: Facts) -> list[str]:
    if facts.class_key is None:
        return []
    open_states = [state for state in OPEN if any(getattr(row, state) for row in facts.classes)]
    counted = ("jobs", *FINISHED, *open_states)
    rows = [_class(row.class_, [getattr(row, name) for name in counted]) for row in facts.classes]
    most = f", the {MOST_CLASSES} most frequent" if len(rows) == MOST_CLASSES else ""
    header = [escaped(facts.class_key), "wanted", *FINISHED, *open_states]
    return ["", f"By `meta`'s {escaped(facts.class_key)}{most}:", "", table(header, rows)]


def _class(name: str | None, counts: Sequence[int]) -> Sequence[str]:
    return ["(none)" if name is None else escaped(name), *(f"{count:,}" for count in counts)]


def _models(facts: Facts) -> str:
    rows = [
        (
            f"`{model}`",
            escaped(revision),
            f"`{digest[:16]}…`",
            escaped(lora),
            f"{images_of(groups):,}",
            _licence(facts.cards.get(model)),
        )
        for (model, revision, digest, lora), groups in facts.by(
            "model", "model_revision", "model_digest", "lora"
        ).items()
    ]
    lines = ["## Models and what may be done with their images", ""]
    lines += [table(["model", "revision", "SHA-256", "LoRA", "images", "licence"], rows)]
    restricted = {card.id: card for card in facts.cards.values() if card.use_restrictions}
    lines += [f"\n**{card.title}**: {card.use_restrictions}" for card in restricted.values()]
    lines += [
        f"\nLimits of {card.title}: {card.limits}"
        for card in facts.cards.values()
        if card.family in ("text2image", "upscaler")
    ]
    return "\n".join(lines)


def _safety(facts: Facts) -> str:
    policies = sorted({_safety_policy(batch.policy) for batch in facts.batches})
    checkers = [card for card in facts.cards.values() if card.family == "safety-checker"]
    classifiers = [card for card in facts.cards.values() if card.family == "classifier"]
    titles = ", ".join(checker.title for checker in checkers)
    digests = [f"`{digest}`" for (digest,) in facts.by("checker") if digest]
    lines = [
        "## Safety",
        "",
        f"What the safety checker flags is handled by the policy {', '.join(policies)}; checker: "
        f"{titles or 'unknown'}. SHA-256 of its files: {', '.join(digests) or 'not recorded'}.",
        *_further_checkers(facts),
        "",
        table(
            ["verdict", "images"],
            [
                (verdict, f"{images_of(groups):,}")
                for (verdict,), groups in facts.by("safety_verdict").items()
            ],
        ),
        "",
        "Scores are in `safety_scores`.",
        *(f"\nLimits of {checker.title}: {checker.limits}" for checker in (*checkers, *classifiers)),
    ]
    return "\n".join(lines)


def _safety_policy(policy: BatchPolicy) -> str:
    strength = (
        ""
        if policy.safety_strength == SafetyStrength.STANDARD
        else f" at the strength `{policy.safety_strength}`"
    )
    thresholds = f" with `{policy.safety_thresholds}` added to its scores" if policy.safety_thresholds else ""
    return f"`{policy.safety}`{strength}{thresholds}"


def _further_checkers(facts: Facts) -> list[str]:
    """Return a table of the lowest scores of labels for which further checkers flag; several if batches differ."""
    found: dict[tuple[str, str], set[float]] = {}
    for batch in facts.batches:
        for checker, labels in batch.policy.checker_thresholds.labels.items():
            for label, score in labels.items():
                found.setdefault((checker, label), set()).add(score)
    rows = [
        (f"`{checker}`", f"`{label}`", ", ".join(f"{score:g}" for score in sorted(scores)))
        for (checker, label), scores in sorted(found.items())
    ]
    return ["", table(["further checker", "label", "flags from a score of"], rows)] if rows else []


def _marks(facts: Facts) -> str:
    rows = [
        (
            f"`{escaped(mark)}`" if mark else "none",
            method or "",
            f"{images_of(groups):,}",
            _worst(groups),
            _weak(groups),
        )
        for (mark, method), groups in facts.by("mark", "watermark_method").items()
    ]
    header = ["mark", "method", "images", "fewest bits read back", "weak"]
    signed, labelled, beside = (facts.total(name) for name in ("signed", "labelled", "beside"))
    place = f"; of {beside:,} it is in a file beside the image (`c2pa_sidecar_sha256`)" if beside else ""
    lines = [
        "## Marks and signatures",
        "",
        table(header, rows),
        "",
        f"{signed:,} of {facts.images:,} files bear a signed C2PA manifest (`c2pa_manifest_id`){place}. {labelled:,} "
        "say in their XMP metadata, as IPTC's DigitalSourceType, that a model made them.",
    ]
    if facts.total("weak"):
        lines += ["", "Weak marks may be lost when a file is compressed again (`watermark_strength`)."]
    if any(verdict == "blackened" for (verdict,) in facts.by("safety_verdict")):
        lines += ["", "Blackened images have no mark: every pixel of them is black."]
    return "\n".join(lines)


def _worst(groups: Sequence[Group]) -> str:
    found = [group.worst for group in groups if group.worst is not None]
    return f"{min(found):.3f}" if found else ""


def _weak(groups: Sequence[Group]) -> str:
    """Return how many marks may not survive another compression; nothing where nobody knows it of any."""
    return f"{sum(group.weak for group in groups):,}" if any(group.judged for group in groups) else ""


def _files(dataset: Dataset) -> str:
    prefix = dataset.exporter.index_prefix
    lines = [
        "## Files",
        "",
        f"`sha256sum -c {prefix}SHA256SUMS` checks all files. `{prefix}croissant.json` describes the dataset for "
        f"machines (Croissant 1.1), `{prefix}datacontract.yaml` its columns (Open Data Contract Standard "
        f"{data_contract.STANDARD}). `_SUCCESS` is written last and tells whether the dataset is complete.",
        "",
        *_timestamps(dataset),
        table(["split", "files"], [(name, f"{len(files):,}") for name, files in dataset.splits.items()]),
    ]
    return "\n".join(lines)


def _timestamps(dataset: Dataset) -> list[str]:
    if not dataset.is_stamped:
        return []
    return [
        "Shards are time-stamped (RFC 3161): in `_SUCCESS`, `timestamp` of a shard proves that files with these "
        "digests were there at its `time`. `nightmill exports check FOLDER --trust PEM` compares files, digests and "
        "time stamps, without a connection; PEM has the certificates of the authority.",
        "",
    ]


def _licence(card: Card | None) -> str:
    if card is None:
        return "unknown: the model has no card here"
    return f"[{card.license}]({card.license_url})" if card.license_url else card.license
