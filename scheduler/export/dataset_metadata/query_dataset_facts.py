"""What the tables know of a dataset's images: models, classes, verdicts, marks, sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, TextClause, text

from jobs.db.engine import run
from jobs.images.where_expression import ALL, Condition
from jobs.job_dataclasses import BatchId
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.stored_policy import policy_of
from jobs.states import JobState
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import UnknownModelError

CLASSES = ("label", "class", "category")
"""Keys of `meta` that hold an image's class, if no policy names one."""
MOST_CLASSES = 100

_OF = """
    FROM images i WHERE batch_id = ANY (CAST(:batches AS bigint[]))
      AND EXISTS (SELECT FROM batches b WHERE b.id = i.batch_id AND {condition})
"""
"""The images of batches that meet a condition, of which `{condition}` is the SQL."""

# One pass over the images: they have few combinations of these.
_GROUPED = (
    *("model", "model_revision", "model_digest", "lora", "lora_digest", "upscaler_digest", "safety_verdict"),
    *("width", "height", "format", "watermark_method"),
)
# Tiled marks differ from job to job, in all but the first 24 bits.
_MARK = "CASE WHEN watermark_method = 'tiled' THEN left(watermark, 6) || '…' ELSE watermark END"
# Rows of withheld images have no digest of their pixels. What tells that their files have the label is the time of a
# stage that came with it; a copy's row has the times of copying, so the row that it was rendered for is asked.
_LABELLED = """
    pixels_sha256 IS NOT NULL OR c2pa_manifest_id IS NOT NULL OR timings ? 'iscc_code'
    OR EXISTS (SELECT FROM images root WHERE root.id = i.reused_from AND root.timings ? 'iscc_code')
"""
_GROUPS = f"""
    SELECT {", ".join(_GROUPED)}, {_MARK} AS mark, versions ->> 'safety_checker_digest' AS checker, count(*) AS images,
        CAST(sum(bytes) AS bigint) AS bytes, min(created_at) AS first, max(created_at) AS last,
        count(*) FILTER (WHERE prompt_truncated) AS truncated, min(watermark_bit_accuracy) AS worst,
        count(*) FILTER (WHERE watermark_strength = 'weak') AS weak, count(watermark_strength) AS judged,
        count(c2pa_manifest_id) AS signed, count(c2pa_sidecar_sha256) AS beside,
        count(*) FILTER (WHERE {_LABELLED}) AS labelled {{images}}
    GROUP BY {", ".join(_GROUPED)}, mark, checker
"""
_SAMPLERS = """
    SELECT sampler, steps, guidance_scale, count(*) AS images {images}
    GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT 20
"""
_BY_STATE = ", ".join(f"count(*) FILTER (WHERE state = '{state}') AS {state}" for state in JobState)
_CLASSES = """
    WITH outcomes AS (
        SELECT meta, state FROM jobs WHERE batch_id = ANY (CAST(:batches AS bigint[])) AND {states}
        UNION ALL
        SELECT meta, state FROM archived_jobs WHERE batch_id = ANY (CAST(:batches AS bigint[]))
        UNION ALL
        SELECT meta, 'done' {images} AND {counted}
    )
    SELECT meta ->> :key AS class_, count(*) AS jobs, {by_state}
    FROM outcomes WHERE json_typeof(meta) = 'object' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :most
"""
_BATCHES = text("SELECT * FROM batches WHERE id = ANY (CAST(:batches AS bigint[])) ORDER BY id")


@dataclass(frozen=True)
class BatchFacts:
    """A batch: its row in the table, and its policy."""

    row: Mapping[str, Any]
    policy: BatchPolicy

    @property
    def manifest(self) -> str:
        """The name of the manifest's file, without its folder, which is this host's alone."""
        return str(self.row["manifest"]).rstrip("/").rpartition("/")[2]


Group = Row[Any]
"""Images that are alike in the columns of `_GROUPED`, in mark and checker, and what is counted of them."""


@dataclass(frozen=True)
class Facts:
    """What is to be told of a dataset; the rows are those of the queries above."""

    groups: Sequence[Group]
    batches: Sequence[BatchFacts]
    cards: Mapping[str, Card]
    """By the id of each model and LoRA, as far as the catalogue still has them, and of the upscalers and checkers."""
    samplers: Sequence[Row[Any]]
    class_key: str | None
    classes: Sequence[Row[Any]]

    def total(self, name: str) -> int:
        """Return the sum of a figure over all images: `images`, `bytes`, `truncated`, `signed` or `labelled`."""
        return sum(getattr(group, name) for group in self.groups)

    def by(self, *names: str) -> dict[tuple[Any, ...], list[Group]]:
        """Return the groups by their values of these columns, those of most images first."""
        found: dict[tuple[Any, ...], list[Group]] = {}
        for group in self.groups:
            found.setdefault(tuple(getattr(group, name) for name in names), []).append(group)
        return dict(sorted(found.items(), key=lambda pair: (-images_of(pair[1]), str(pair[0]))))

    @property
    def images(self) -> int:
        """How many images there are."""
        return self.total("images")

    @property
    def formats(self) -> list[str]:
        """The formats of their files."""
        return sorted({group.format for group in self.groups})

    @property
    def first(self) -> datetime | None:
        """When the first one was finished."""
        return min((group.first for group in self.groups), default=None)

    @property
    def last(self) -> datetime | None:
        """When the last one was finished."""
        return max((group.last for group in self.groups), default=None)


def images_of(groups: Sequence[Group]) -> int:
    """Return the number of images in groups."""
    return sum(group.images for group in groups)


def gather_facts(
    engine: Engine, catalogue: Catalogue, batches: Sequence[BatchId], condition: Condition = ALL
) -> Facts:
    """Query the facts of the images of batches that meet a condition."""
    values = {"batches": list(batches), **condition.values}
    images = _OF.format(condition=condition.sql)
    groups = run(engine, text(_GROUPS.format(images=images)), values)
    described = [_batch(row) for row in run(engine, _BATCHES, values)]
    classifiers = {name for batch in described for name in batch.policy.checker_thresholds.labels}
    class_key, classes = _classes(engine, _classes_query(images, condition), values, described)
    return Facts(
        groups=groups,
        batches=described,
        cards=_cards(catalogue, groups) | _named(catalogue, sorted(classifiers)),
        samplers=run(engine, text(_SAMPLERS.format(images=images)), values),
        class_key=class_key,
        classes=classes,
    )


def _batch(row: Row[Any]) -> BatchFacts:
    policy, _ = policy_of(row._mapping)
    return BatchFacts(dict(row._mapping), policy)


def _classes_query(images: str, condition: Condition) -> TextClause:
    """Return the query of outcomes by class: of jobs by their state, and of images that have no job or are chosen."""
    if condition is ALL:
        gone = "NOT EXISTS (SELECT FROM jobs WHERE id = i.job_id)"  # of an archived batch
        return _outcomes(images, states="true", counted=gone)
    return _outcomes(images, states="state <> 'done'", counted="true")


def _outcomes(images: str, *, states: str, counted: str) -> TextClause:
    return text(_CLASSES.format(images=images, states=states, counted=counted, by_state=_BY_STATE))


def _classes(
    engine: Engine, query: TextClause, values: Mapping[str, Any], batches: Sequence[BatchFacts]
) -> tuple[str | None, Sequence[Row[Any]]]:
    """Return the key that holds the class, and its counts: a target's, or the first of the usual ones."""
    targets = [batch.policy.target_per for batch in batches if batch.policy.target_per]
    for key in (*targets, *CLASSES):
        found = run(engine, query, {**values, "key": key, "most": MOST_CLASSES})
        if any(row[0] is not None for row in found):
            return key, found
    return None, []


def _cards(catalogue: Catalogue, groups: Sequence[Group]) -> dict[str, Card]:
    found: dict[str, Card] = {}
    for row in groups:
        loras = [part.partition(":")[0] for part in row.lora.split("+") if part]
        for name in (row.model, *loras):
            if card := _card(catalogue, name):
                found[name] = card
                helpers = [card.safety_checker, card.upscaler if row.upscaler_digest else None]
                found |= _named(catalogue, [name for name in helpers if name])
    return found


def _named(catalogue: Catalogue, names: Sequence[str]) -> dict[str, Card]:
    return {card.id: card for card in (_card(catalogue, name) for name in names) if card}


def _card(catalogue: Catalogue, name: str) -> Card | None:
    try:
        return catalogue.get(name)
    except UnknownModelError:  # a card of the user's own that was removed
        return None
