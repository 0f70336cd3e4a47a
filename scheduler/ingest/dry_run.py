"""A dry run of a submit: counts jobs, rejects, lanes and work of a manifest without contacting a service."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from jobs.batches.accepted_image_quotas import refuse_target_per
from jobs.input_image_access import ABSENT
from jobs.manifest import PICTURE_COLUMNS, LineCounts, Reject, Row, RowRules, read_rows
from jobs.manifest.seeds import Seeds
from jobs.policy.batch_policy import BatchPolicy
from jobs.states import SeedSource
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.diffusion.token_counter import TokenCounter
from models.errors import CheckpointError, MissingPackagesError
from models.optional_packages import require
from models.store.resolve_checkpoint import resolve
from scheduler.ingest.duplicate_detection import SHOWN, Repeated, Repeats
from scheduler.ingest.expected_replacements import expected_replacements
from scheduler.ingest.ingest import refuse_repeated
from scheduler.ingest.prompt_syntax import kinds_in
from scheduler.ingest.seed_by_id_or_row import UnfitIdsError, possible_sources, refuse_unfit_ids
from scheduler.ingest.submit_request import SubmitRequest

TELL_EVERY = 1_000
SAMPLED_ABOVE = 1_000_000
SAMPLE = 10_000
_COUNTED_AT_ONCE = 200_000
_MAX_KINDS = 10_000
_MAX_META_COLUMNS = 1_000
_MAX_PICTURES = 1_000_000
_OTHERS = "other reasons"
_OTHER_LANES = "others", "", "", 0, 0, 0
BYTES_PER_PIXEL = {"png": 1.8, "webp": 0.5, "jpeg": 0.7}  # of photographs; noise takes up to 3 in PNG

SHALLOW = 0.25
"""The cost of a partial UNet call (`deep_cache`) relative to a full one: 0.22 of the FLOP for SD 1.5, 0.27 for 2.1."""

# The columns that determine an image, besides its seed.
_SEEN = (
    *(
        "prompt",
        "negative_prompt",
        "model",
        "mode",
        "lora",
        "width",
        "height",
        "steps",
        "guidance_scale",
        "sampler",
    ),
    *("init_image", "mask_image", "depth_image", "strength", "upscale", "noise_level"),
)
_LANE = ("model", "mode", "lora", "width", "height", "upscale")

_GIVEN = Seeds(0)
"""The seeds of rows that have their own depend on no batch."""

Shape = tuple[str, str, str, int, int, int]


@dataclass
class Plan:
    """Counts over a manifest; `tokens_unknown` lists models whose tokenizer isn't on this machine.

    `pictures` holds hashes of the input images, `missing_pictures` counts rows that name one that doesn't exist. Pixels
    and work of an image that keeps its input's size are those of the model's native size. `same_pictures` are rows with
    the seed, prompt and all settings of another row; `syntax` counts rows by other tools' syntax in their prompts,
    `syntax_lines` holds the first line of each.
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
    truncated_negatives: int = 0
    truncated_negative_lines: list[int] = field(default_factory=list)
    tokens_unknown: list[str] = field(default_factory=list)
    lines: LineCounts = field(default_factory=LineCounts)
    repeated_ids: Repeated = field(default_factory=Repeated)
    same_pictures: Repeated = field(default_factory=Repeated)
    syntax: Counter[str] = field(default_factory=Counter)
    syntax_lines: dict[str, int] = field(default_factory=dict)
    meta_columns: set[str] = field(default_factory=set)
    sample: int | None = None
    line_without_id: int | None = None
    """The line of the first row that has no id."""
    seed_from: SeedSource = SeedSource.ROW
    expected_replacements: int = 0
    """Of images that are lost on the way to the target, as measured; the work includes them, `jobs` doesn't."""
    per_value: Counter[str] = field(default_factory=Counter)
    """Images for each value of `target_per`."""

    def extrapolate(self, rows: int) -> None:
        """Scale the counts from the sample to `rows` rows."""
        share = rows / self.rows
        self.rows = self.lines.lines = rows
        for name in ("jobs", "rejected", "missing_pictures", "truncated", "truncated_negatives", "pixels"):
            setattr(self, name, round(getattr(self, name) * share))
        self.gflop *= share
        for counts in (self.reasons, self.lanes, self.syntax):
            for kind in counts:
                counts[kind] = round(counts[kind] * share)  # type: ignore[index]

    def fill_up(self, target: int) -> None:
        """Scale what is drawn to the images that are added until each value reaches the target."""
        share = 1 + sum(max(0, target - images) for images in self.per_value.values()) / max(1, self.jobs)
        self.jobs = round(self.jobs * share)
        self._scale_work(share)
        for lane in self.lanes:
            self.lanes[lane] = round(self.lanes[lane] * share)

    def replace_lost(self, policy: BatchPolicy, losses: Mapping[str, float]) -> None:
        """Add the work of the replacements that are expected, by the measured losses of each model."""
        if policy.target is not None and self.jobs:
            ratio = policy.max_replacement_ratio
            jobs = {model: sum(n for lane, n in self.lanes.items() if lane[0] == model) for model in losses}
            jobs["others"] = self.jobs - sum(jobs.values())
            self.expected_replacements = expected_replacements(
                self.per_value, policy.target, ratio, jobs, losses
            )
            self._scale_work(1 + self.expected_replacements / self.jobs)

    def _scale_work(self, share: float) -> None:
        self.pixels = round(self.pixels * share)
        self.gflop *= share

    def bytes(self, format: str) -> int:
        """Return the estimated total size of the files."""
        return round(self.pixels * BYTES_PER_PIXEL[format])


def make_plan(
    order: SubmitRequest,
    rules: RowRules,
    catalogue: Catalogue,
    on_rows: Callable[[int], None] = lambda _: None,
    losses: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    """Read the manifest as an ingest does. Raises ManifestError if the file as a whole can't be read.

    `losses` are the shares of each model's jobs that failed or were blocked so far.
    """
    plan = Plan()
    truncation = _Truncation(catalogue, plan)
    again = _Again(plan)
    manifest = order.manifest
    if (manifest.rows or 0) > SAMPLED_ABOVE:
        manifest, plan.sample = manifest.sampled(SAMPLE), SAMPLE
    for item in read_rows(manifest, rules, plan.lines):
        plan.rows += 1
        if isinstance(item, Reject):
            _count_reject(plan, item)
        else:
            _count_row(plan, item, catalogue, order.policy.deep_cache)
            plan.per_value[str(item.meta.get(order.policy.target_per or "", ""))] += item.num_images
            _count_text(plan, item)
            again.count(item)
            truncation.add(item)
        if plan.rows % TELL_EVERY == 0:
            on_rows(plan.rows)
    truncation.count()
    again.finish()
    plan.seed_from = _seed_source(order, plan)
    if plan.sample and order.manifest.rows:
        plan.extrapolate(order.manifest.rows)
    if order.policy.target is not None:
        _check_target_per(plan, order)
        plan.fill_up(order.policy.target)
        plan.replace_lost(order.policy, losses)
    if order.reading.unique_ids:
        refuse_repeated(plan.repeated_ids, order.manifest.label)
    return plan


def _check_target_per(plan: Plan, order: SubmitRequest) -> None:
    column, is_complete = order.policy.target_per, len(plan.meta_columns) < _MAX_META_COLUMNS
    if column is not None and plan.jobs and is_complete and column not in plan.meta_columns:
        refuse_target_per(column, sorted(plan.meta_columns))


def _seed_source(order: SubmitRequest, plan: Plan) -> SeedSource:
    """Return what an ingest would derive seeds from; UsageError if that is the ids, by option, and they are unfit."""
    first, *others = possible_sources(order)
    try:
        if first == SeedSource.ID:
            refuse_unfit_ids(plan.line_without_id, plan.repeated_ids)
    except UnfitIdsError as unfit:
        if not others:
            raise unfit.explained(order.manifest.label) from None
        return others[0]
    return first


def _count_reject(plan: Plan, reject: Reject) -> None:
    plan.rejected += 1
    reason = reject.reason if reject.reason in plan.reasons or len(plan.reasons) < _MAX_KINDS else _OTHERS
    plan.reasons[reason] += 1
    plan.missing_pictures += reject.column in PICTURE_COLUMNS and reject.reason.startswith(ABSENT)
    if len(plan.rejects) < SHOWN:
        plan.rejects.append(reject)


def _count_row(plan: Plan, row: Row, catalogue: Catalogue, deep_cache: int) -> None:
    plan.jobs += row.num_images
    lane = row.model, row.mode, row.lora, row.width, row.height, row.upscale
    if lane not in plan.lanes and len(plan.lanes) >= _MAX_KINDS:
        lane = _OTHER_LANES
    plan.lanes[lane] += row.num_images
    given = row.init_image, row.mask_image, row.depth_image
    if len(plan.pictures) < _MAX_PICTURES:
        plan.pictures.update(hash(picture) for picture in given if picture)
    card = catalogue.get(row.model)
    size = row.width * row.height or card.width * card.height
    scale = max(1, row.upscale)
    plan.pixels += row.num_images * size * scale * scale
    plan.gflop += row.num_images * _gflop(row, card, size, catalogue, deep_cache)


def _count_text(plan: Plan, row: Row) -> None:
    for kind in kinds_in(row.prompt):
        plan.syntax[kind] += 1
        plan.syntax_lines.setdefault(kind, row.line)
    if row.meta and len(plan.meta_columns) < _MAX_META_COLUMNS:
        plan.meta_columns.update(row.meta)


class _Again:
    """Finds repeated ids, and rows that generate the same image as another row."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ids = Repeats()
        self.pictures = Repeats()

    def count(self, row: Row) -> None:
        if row.id is not None:
            self.ids.add(row.id, row.line)
        elif self.plan.line_without_id is None:
            self.plan.line_without_id = row.line
        if row.seed is not None:
            same = tuple(getattr(row, name) for name in _SEEN)
            for seed in _GIVEN.of(row):
                self.pictures.add((seed, same), row.line)

    def finish(self) -> None:
        self.plan.repeated_ids = self.ids.found()
        self.ids = Repeats()  # frees memory
        self.plan.same_pictures = self.pictures.found()


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
    """Counts prompts and negative prompts that exceed their model's token limit, with the model's own tokenizer."""

    def __init__(self, catalogue: Catalogue, plan: Plan) -> None:
        self.catalogue = catalogue
        self.plan = plan
        self.counters: dict[str, TokenCounter | None] = {}
        self.waiting: dict[str, list[tuple[int, str, str]]] = {}
        self.characters = 0

    def add(self, row: Row) -> None:
        """Queue a row, whose texts are counted together with others."""
        negative = row.negative_prompt if row.guidance_scale > 1 else ""
        self.waiting.setdefault(row.model, []).append((row.line, row.prompt, negative))
        self.characters += len(row.prompt) + len(negative) + 1
        if self.characters > _COUNTED_AT_ONCE:
            self.count()

    def count(self) -> None:
        """Count the queued texts."""
        plan, waiting = self.plan, self.waiting
        self.waiting, self.characters = {}, 0
        for model, alike in waiting.items():
            counter = self._counter(model)
            if counter is None:
                continue
            long = _longer(counter, [(line, prompt) for line, prompt, _ in alike])
            plan.truncated += len(long)
            plan.truncated_lines += long[: SHOWN - len(plan.truncated_lines)]
            long = _longer(counter, [(line, negative) for line, _, negative in alike if negative])
            plan.truncated_negatives += len(long)
            plan.truncated_negative_lines += long[: SHOWN - len(plan.truncated_negative_lines)]

    def _counter(self, model: str) -> TokenCounter | None:
        if model not in self.counters:
            try:
                require("worker")
                checkpoint = resolve(self.catalogue.get(model), self.catalogue.models_dir)
                self.counters[model] = TokenCounter.load(checkpoint)
            except (CheckpointError, MissingPackagesError):
                self.counters[model] = None
                self.plan.tokens_unknown.append(model)
        return self.counters[model]


def _longer(counter: TokenCounter, texts: list[tuple[int, str]]) -> list[int]:
    """Return the lines of texts that exceed the token limit; repeated texts are counted once."""
    distinct = list({text: None for _, text in texts})
    tokens = dict(zip(distinct, counter.count(distinct), strict=True))
    return [line for line, text in texts if tokens[text] > counter.limit]


def report(plan: Plan, order: SubmitRequest, seconds: float | None) -> dict[str, Any]:
    """Return the plan as `plan --json` prints it."""
    return {
        "manifest": order.manifest.label,
        "format": order.manifest.format,
        "rows": plan.rows,
        "sample": plan.sample,
        "batch_seed": order.batch_seed,
        "seed_from": plan.seed_from,
        "jobs": plan.jobs,
        "expected_replacements": plan.expected_replacements,
        "rejected": plan.rejected,
        "lines": plan.lines.report(plan.rows - plan.rejected, plan.rejected),
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
        "truncated_negatives": plan.truncated_negatives,
        "truncated_negative_lines": plan.truncated_negative_lines,
        "tokens_unknown": plan.tokens_unknown,
        "repeated_ids": plan.repeated_ids.number,
        "repeated_id_lines": plan.repeated_ids.lines,
        "same_pictures": plan.same_pictures.number,
        "same_picture_lines": plan.same_pictures.lines,
        "prompt_syntax": dict(plan.syntax.most_common()),
        "prompt_syntax_lines": plan.syntax_lines,
        "meta_columns": sorted(plan.meta_columns),
        "left_out_columns": plan.lines.left_out,
        "not_found_columns": plan.lines.not_found,
        "estimated_seconds": seconds and round(seconds, 1),
        "estimated_bytes": plan.bytes(order.policy.format),
    }


def _by(plan: Plan, place: int) -> dict[str, int]:
    """Return the jobs by one element of their lane's shape."""
    counts: Counter[str] = Counter()
    for shape, jobs in sorted(plan.lanes.items()):
        counts[str(shape[place])] += jobs
    return dict(counts)
