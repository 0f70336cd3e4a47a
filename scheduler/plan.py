"""What a submit would do, worked out without touching a service."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jobs.manifest import Reject, Row, RowRules, read_rows
from models.catalogue import Card, Catalogue
from models.checkpoint import resolve
from models.errors import CheckpointError
from models.tokens import TokenCounter
from scheduler.ingest import Order

CHUNK_ROWS = 2_000
SHOWN = 20
BYTES_PER_PIXEL = {"png": 1.8, "webp": 0.5, "jpeg": 0.7}  # of photographs; noise takes up to 3 in PNG

Shape = tuple[str, int, int, int]


@dataclass
class Plan:
    """Counts over a manifest; `tokens_unknown` names models whose tokenizer isn't on this machine."""

    rows: int = 0
    jobs: int = 0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    lanes: Counter[Shape] = field(default_factory=Counter)
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
            _count_row(plan, row, catalogue)
        truncation.count(rows)
        plan.rows += len(chunk)
        on_rows(plan.rows)
    return plan


def _count_reject(plan: Plan, reject: Reject) -> None:
    plan.rejected += 1
    plan.reasons[reject.reason] += 1
    if len(plan.rejects) < SHOWN:
        plan.rejects.append(reject)


def _count_row(plan: Plan, row: Row, catalogue: Catalogue) -> None:
    plan.jobs += row.num_images
    plan.lanes[row.model, row.width, row.height, row.upscale] += row.num_images
    scale = max(1, row.upscale)
    plan.pixels += row.num_images * row.width * row.height * scale * scale
    plan.gflop += row.num_images * _gflop(row, catalogue)


def _gflop(row: Row, catalogue: Catalogue) -> float:
    card = catalogue.get(row.model)
    passes = row.steps * (2 if row.guidance_scale > 1 else 1)
    cost = card.gflop_per_step * passes * row.width * row.height / (card.width * card.height)
    if row.upscale and card.upscaler:
        cost += _upscaling_gflop(row, catalogue.get(card.upscaler))
    return cost


def _upscaling_gflop(row: Row, card: Card) -> float:
    passes = card.steps * (2 if card.guidance_scale > 1 else 1)
    return card.gflop_per_step * passes * row.width * row.height / (card.width * card.height)


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
            {"model": model, "width": width, "height": height, "upscale": upscale, "jobs": jobs}
            for (model, width, height, upscale), jobs in sorted(plan.lanes.items())
        ],
        "truncated_prompts": plan.truncated,
        "truncated_lines": plan.truncated_lines,
        "tokens_unknown": plan.tokens_unknown,
        "estimated_seconds": seconds and round(seconds, 1),
        "estimated_bytes": plan.bytes(order.policy.format),
    }
