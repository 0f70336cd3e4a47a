"""What a submit would do, worked out without touching a service."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jobs.manifest import PICTURE_COLUMNS, Reject, Row, RowRules, read_rows
from jobs.pictures import ABSENT
from models.catalogue import Card, Catalogue
from models.checkpoint import resolve
from models.errors import CheckpointError
from models.tokens import TokenCounter
from scheduler.ingest import Order

CHUNK_ROWS = 2_000
SHOWN = 20
BYTES_PER_PIXEL = {"png": 1.8, "webp": 0.5, "jpeg": 0.7}  # of photographs; noise takes up to 3 in PNG

SHALLOW = 0.25
"""Of a whole UNet call, what one between costs with `deep_cache`: 0.22 of the FLOP for SD 1.5, 0.27 for SD 2.1."""

_LANE = ("model", "mode", "lora", "width", "height", "upscale")

Shape = tuple[str, str, str, int, int, int]


@dataclass
class Plan:
    """Counts over a manifest; `tokens_unknown` names models whose tokenizer isn't on this machine.

    `pictures` holds hashes of those that rows start from, `missing_pictures` counts rows that name one that isn't
    there. Pixels and work of a picture whose own size is taken are those of the model's native size.
    """

    rows: int = 0
    jobs: int = 0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    lanes: Counter[Shape] = field(default_factory=Counter)
    pictures: set[int] = field(default_factory=set)
    missing_pictures: int = 0
    gflop: float = 0.0
    pixels: int = 0
    truncated: int = 0
    truncated_lines: list[int] = field(default_factory=list)
    tokens_unknown: list[str] = field(default_factory=list)

    def bytes(self, format: str) -> int:
        """Estimated size of all files."""
        return round(self.pixels * BYTES_PER_PIXEL[format])


def make_plan(
    order: Order, rules: RowRules, catalogue: Catalogue, on_rows: Callable[[int], None] = lambda _: None
) -> Plan:
    """Read the manifest as an ingest would. Raises ManifestError if the file as a whole can't be read."""
    plan = Plan()
    truncation = _Truncation(catalogue, plan)
    items = read_rows(order.manifest, rules)
    while chunk := list(islice(items, CHUNK_ROWS)):
        rows = [item for item in chunk if isinstance(item, Row)]
        for item in chunk:
            if isinstance(item, Reject):
                _count_reject(plan, item)
        for row in rows:
            _count_row(plan, row, catalogue, order.policy.deep_cache)
        truncation.count(rows)
        plan.rows += len(chunk)
        on_rows(plan.rows)
    return plan


def _count_reject(plan: Plan, reject: Reject) -> None:
    plan.rejected += 1
    plan.reasons[reject.reason] += 1
    plan.missing_pictures += reject.column in PICTURE_COLUMNS and reject.reason.startswith(ABSENT)
    if len(plan.rejects) < SHOWN:
        plan.rejects.append(reject)


def _count_row(plan: Plan, row: Row, catalogue: Catalogue, deep_cache: int) -> None:
    plan.jobs += row.num_images
    plan.lanes[row.model, row.mode, row.lora, row.width, row.height, row.upscale] += row.num_images
    given = row.init_image, row.mask_image, row.depth_image
    plan.pictures.update(hash(picture) for picture in given if picture)
    card = catalogue.get(row.model)
    size = row.width * row.height or card.width * card.height
    scale = max(1, row.upscale)
    plan.pixels += row.num_images * size * scale * scale
    plan.gflop += row.num_images * _gflop(row, card, size, catalogue, deep_cache)


def _gflop(row: Row, card: Card, size: int, catalogue: Catalogue, deep_cache: int) -> float:
    drawn = max(1, int(row.steps * (row.strength or 1)))
    whole = (1 + SHALLOW * (deep_cache - 1)) / deep_cache
    cost = whole * _passes_gflop(card, drawn, row.guidance_scale, size)
    if row.upscale and card.upscaler:
        upscaler = catalogue.get(card.upscaler)
        cost += _passes_gflop(upscaler, upscaler.steps, upscaler.guidance_scale, size)
    return cost


def _passes_gflop(card: Card, steps: int, guidance_scale: float, size: int) -> float:
    passes = steps * (2 if guidance_scale > 1 else 1)
    return card.gflop_per_step * passes * size / (card.width * card.height)


class _Truncation:
    """Counts prompts that are longer than their model reads, with each model's own tokenizer."""

    def __init__(self, catalogue: Catalogue, plan: Plan) -> None:
        self.catalogue = catalogue
        self.plan = plan
        self.counters: dict[str, TokenCounter | None] = {}

    def count(self, rows: list[Row]) -> None:
        for model, prompts in _by_model(rows):
            counter = self._counter(model)
            if counter is None:
                continue
            tokens = counter.count([row.prompt for row in prompts])
            long = [row.line for row, count in zip(prompts, tokens, strict=True) if count > counter.limit]
            self.plan.truncated += len(long)
            self.plan.truncated_lines += long[: SHOWN - len(self.plan.truncated_lines)]

    def _counter(self, model: str) -> TokenCounter | None:
        if model not in self.counters:
            try:
                checkpoint = resolve(self.catalogue.get(model), self.catalogue.models_dir)
                self.counters[model] = TokenCounter.load(checkpoint)
            except CheckpointError:
                self.counters[model] = None
                self.plan.tokens_unknown.append(model)
        return self.counters[model]


def _by_model(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.model, []).append(row)
    yield from grouped.items()


def report(plan: Plan, order: Order, seconds: float | None) -> dict[str, Any]:
    """As `plan --json` prints it."""
    return {
        "manifest": order.manifest.label,
        "format": order.manifest.format,
        "rows": plan.rows,
        "jobs": plan.jobs,
        "rejected": plan.rejected,
        "reasons": dict(plan.reasons.most_common(SHOWN)),
        "rejects": [
            {"line": reject.line, "column": reject.column, "reason": reject.reason, "excerpt": reject.excerpt}
            for reject in plan.rejects
        ],
        "lanes": [
            dict(zip(_LANE, shape, strict=True)) | {"jobs": jobs}
            for shape, jobs in sorted(plan.lanes.items())
        ],
        "modes": _by(plan, 1),
        "loras": {lora: jobs for lora, jobs in _by(plan, 2).items() if lora},
        "pictures": len(plan.pictures),
        "missing_pictures": plan.missing_pictures,
        "truncated_prompts": plan.truncated,
        "truncated_lines": plan.truncated_lines,
        "tokens_unknown": plan.tokens_unknown,
        "estimated_seconds": seconds and round(seconds, 1),
        "estimated_bytes": plan.bytes(order.policy.format),
    }


def _by(plan: Plan, place: int) -> dict[str, int]:
    """Jobs by one part of their lane's shape."""
    counts: Counter[str] = Counter()
    for shape, jobs in sorted(plan.lanes.items()):
        counts[str(shape[place])] += jobs
    return dict(counts)
