"""What the tables know of a dataset's images: models, classes, verdicts, marks, sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.stored_policy import policy_of
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import UnknownModelError

CLASSES = ("label", "class", "category")
"""Keys of `meta` that hold an image's class, if no policy names one."""
MOST_CLASSES = 100

_OF = "FROM images i WHERE batch_id = ANY (CAST(:batches AS bigint[]))"

_TOTALS = text(f"""
    SELECT count(*) AS images, coalesce(sum(bytes), 0) AS bytes, min(created_at) AS first, max(created_at) AS last,
        count(DISTINCT seed) AS seeds, count(*) FILTER (WHERE prompt_truncated) AS truncated,
        array_agg(DISTINCT format ORDER BY format) AS formats,
        array_agg(DISTINCT versions ->> 'safety_checker_digest') AS checkers {_OF}
""")
_MODELS = text(f"""
    SELECT model, model_revision AS revision, model_digest AS digest, lora, lora_digest, upscaler_digest,
        count(*) AS images {_OF} GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY images DESC, 1, 2, 3, 4, 5, 6
""")
_VERDICTS = text(f"SELECT safety_verdict AS verdict, count(*) AS images {_OF} GROUP BY 1 ORDER BY 2 DESC, 1")
_SIZES = text(f"""
    SELECT width, height, format, count(*) AS images, CAST(sum(bytes) AS bigint) AS bytes {_OF}
    GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3
""")
_MARKS = text(f"""
    SELECT watermark AS mark, watermark_method AS method, count(*) AS images, min(watermark_bit_accuracy) AS worst {_OF}
    GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
""")
_SAMPLERS = text(f"""
    SELECT sampler, steps, guidance_scale, count(*) AS images {_OF}
    GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT 20
""")
_CLASSES = text("""
    WITH outcomes AS (
        SELECT meta, state FROM jobs WHERE batch_id = ANY (CAST(:batches AS bigint[]))
        UNION ALL
        SELECT meta, 'done' FROM images i WHERE batch_id = ANY (CAST(:batches AS bigint[]))
            AND NOT EXISTS (SELECT FROM jobs WHERE id = i.job_id)
    )
    SELECT meta ->> :key AS class, count(*) AS jobs, count(*) FILTER (WHERE state = 'done') AS done,
        count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'blocked') AS blocked,
        count(*) FILTER (WHERE state = 'cancelled') AS cancelled
    FROM outcomes WHERE json_typeof(meta) = 'object' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :most
""")
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


@dataclass(frozen=True)
class Facts:
    """What is to be told of a dataset; the rows are those of the queries above."""

    images: int
    bytes: int
    first: datetime | None
    last: datetime | None
    formats: Sequence[str]
    checkers: Sequence[str]
    """Digests of the safety checkers; none where versions before this one rendered."""
    truncated: int
    batches: Sequence[BatchFacts]
    models: Sequence[Row[Any]]
    cards: Mapping[str, Card]
    """By the id of each model and LoRA, as far as the catalogue still has them, and of the upscalers and checkers."""
    verdicts: Sequence[Row[Any]]
    sizes: Sequence[Row[Any]]
    marks: Sequence[Row[Any]]
    samplers: Sequence[Row[Any]]
    class_key: str | None
    classes: Sequence[Row[Any]]


def gather_facts(engine: Engine, catalogue: Catalogue, batches: Sequence[BatchId]) -> Facts:
    """Query the facts of the images of batches."""
    values = {"batches": list(batches)}
    totals = run(engine, _TOTALS, values)[0]
    models = run(engine, _MODELS, values)
    described = [_batch(row) for row in run(engine, _BATCHES, values)]
    class_key, classes = _classes(engine, values, described)
    return Facts(
        images=totals.images,
        bytes=int(totals.bytes),
        first=totals.first,
        last=totals.last,
        formats=totals.formats or [],
        checkers=[digest for digest in totals.checkers or [] if digest],
        truncated=totals.truncated,
        batches=described,
        models=models,
        cards=_cards(catalogue, models),
        verdicts=run(engine, _VERDICTS, values),
        sizes=run(engine, _SIZES, values),
        marks=run(engine, _MARKS, values),
        samplers=run(engine, _SAMPLERS, values),
        class_key=class_key,
        classes=classes,
    )


def _batch(row: Row[Any]) -> BatchFacts:
    policy, _ = policy_of(row._mapping)
    return BatchFacts(dict(row._mapping), policy)


def _classes(
    engine: Engine, values: Mapping[str, Any], batches: Sequence[BatchFacts]
) -> tuple[str | None, Sequence[Row[Any]]]:
    """Return the key that holds the class, and its counts: a target's, or the first of the usual ones."""
    targets = [batch.policy.target_per for batch in batches if batch.policy.target_per]
    for key in (*targets, *CLASSES):
        found = run(engine, _CLASSES, {**values, "key": key, "most": MOST_CLASSES})
        if any(row[0] is not None for row in found):
            return key, found
    return None, []


def _cards(catalogue: Catalogue, models: Sequence[Row[Any]]) -> dict[str, Card]:
    found: dict[str, Card] = {}
    for row in models:
        loras = [part.partition(":")[0] for part in row.lora.split("+") if part]
        for name in (row.model, *loras):
            if card := _card(catalogue, name):
                found[name] = card
                helpers = [card.safety_checker, card.upscaler if row.upscaler_digest else None]
                found |= {
                    each.id: each for each in (_card(catalogue, name) for name in helpers if name) if each
                }
    return found


def _card(catalogue: Catalogue, name: str) -> Card | None:
    try:
        return catalogue.get(name)
    except UnknownModelError:  # a card of the user's own that was removed
        return None
