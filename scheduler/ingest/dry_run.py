"""A dry run of a submit: counts jobs, rejects, lanes and work of a manifest without contacting a service."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jobs.batches.accepted_image_quotas import refuse_target_per
from jobs.input_image_access import ABSENT
from jobs.manifest import PICTURE_COLUMNS, Reject, Row, RowRules, read_rows
from jobs.manifest.seeds import Seeds
from jobs.states import SeedSource
from models.assess.prompt_terms_by_tenant import PromptTermsByTenant
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from scheduler.ingest.choose_seed_source import UnfitIdsError, possible_sources, refuse_unfit_ids
from scheduler.ingest.dry_run_plan import LaneSums, Plan, Shape
from scheduler.ingest.duplicate_detection import SHOWN, Repeats
from scheduler.ingest.ingest import refuse_repeated
from scheduler.ingest.prompt_syntax import kinds_in
from scheduler.ingest.submit_request import SubmitRequest
from scheduler.ingest.truncated_prompts import TruncatedPrompts

TELL_EVERY = 1_000
SAMPLED_ABOVE = 1_000_000
SAMPLE = 10_000
_MAX_KINDS = 10_000
_MAX_META_COLUMNS = 1_000
_MAX_PICTURES = 1_000_000
_OTHERS = "other reasons"
_OTHER_LANES = "others", "", "", 0, 0, 0

SHALLOW = 0.25
"""The cost of a partial UNet call (`deep_cache`) relative to a full one: 0.22 of the FLOP for SD 1.5, 0.27 for 2.1."""

# The columns that determine an image, besides its seed.
_SEEN = (
    "prompt", "negative_prompt", "model", "mode", "lora", "width", "height", "steps", "guidance_scale", "sampler",
    "init_image", "mask_image", "depth_image", "strength", "upscale", "noise_level",
)  # fmt: skip

_GIVEN = Seeds(0)
"""The seeds of rows that have their own depend on no batch."""


def make_plan(
    request: SubmitRequest,
    rules: RowRules,
    catalogue: Catalogue,
    on_rows: Callable[[int], None] = lambda _: None,
    losses: Mapping[str, float] = MappingProxyType({}),
    terms: PromptTermsByTenant | None = None,
) -> Plan:
    """Read the manifest as an ingest does. Raises ManifestError if the file as a whole can't be read.

    `losses` are the shares of each model's jobs that failed or were blocked so far; prompts that hold one of the
    `terms` are counted.
    """
    plan = Plan()
    truncation = TruncatedPrompts(catalogue, plan)
    again = _Again(plan)
    manifest = request.manifest
    if (manifest.rows or 0) > SAMPLED_ABOVE:
        manifest, plan.sample = manifest.sampled(SAMPLE), SAMPLE
    for item in read_rows(manifest, rules, plan.lines):
        plan.rows += 1
        if isinstance(item, Reject):
            _count_reject(plan, item)
        else:
            _count_row(plan, item, catalogue, request.policy.deep_cache)
            plan.per_value[str(item.meta.get(request.policy.target_per or "", ""))] += item.num_images
            _count_text(plan, item)
            again.count(item)
            truncation.add(item)
            if terms is not None:
                _count_filtered(plan, item, terms)
        if plan.rows % TELL_EVERY == 0:
            on_rows(plan.rows)
    truncation.count()
    again.finish()
    plan.seed_from = _seed_source(request, plan)
    if plan.sample and request.manifest.rows:
        plan.extrapolate(request.manifest.rows)
    if request.policy.target is not None:
        _check_target_per(plan, request)
        plan.fill_up(request.policy.target)
        plan.replace_lost(request.policy, losses)
    if request.reading.unique_ids:
        refuse_repeated(plan.repeated_ids, request.manifest.label)
    return plan


def _check_target_per(plan: Plan, request: SubmitRequest) -> None:
    column, is_complete = request.policy.target_per, len(plan.meta_columns) < _MAX_META_COLUMNS
    if column is not None and plan.jobs and is_complete and column not in plan.meta_columns:
        refuse_target_per(column, sorted(plan.meta_columns))


def _seed_source(request: SubmitRequest, plan: Plan) -> SeedSource:
    """Return what an ingest would derive seeds from; UsageError if that is the ids, by option, and they are unfit."""
    first, *others = possible_sources(request)
    try:
        if first == SeedSource.ID:
            refuse_unfit_ids(plan.line_without_id, plan.repeated_ids)
    except UnfitIdsError as unfit:
        if not others:
            raise unfit.explained(request.manifest.label) from None
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
    gflop = row.num_images * _gflop(row, card, size, catalogue, deep_cache)
    plan.gflop += gflop
    _add_to_lane(plan, lane, row, gflop)


def _add_to_lane(plan: Plan, lane: Shape, row: Row, gflop: float) -> None:
    place = row.tenant or "", lane
    if place not in plan.sums and len(plan.sums) >= _MAX_KINDS:
        place = "", _OTHER_LANES
    sums = plan.sums.setdefault(place, LaneSums())
    sums.jobs += row.num_images
    sums.evaluations += row.num_images * _drawn_steps(row) * (2 if row.guidance_scale > 1 else 1)
    sums.gflop += gflop


def _drawn_steps(row: Row) -> int:
    return max(1, int(row.steps * (row.strength or 1)))


def _count_text(plan: Plan, row: Row) -> None:
    for kind in kinds_in(row.prompt):
        plan.syntax[kind] += 1
        plan.syntax_lines.setdefault(kind, row.line)
    if row.meta and len(plan.meta_columns) < _MAX_META_COLUMNS:
        plan.meta_columns.update(row.meta)


def _count_filtered(plan: Plan, row: Row, terms: PromptTermsByTenant) -> None:
    if found := terms.find(row.prompt, row.tenant or ""):
        plan.filtered += 1
        plan.filtered_terms[found.term] += 1
        if len(plan.filtered_lines) < SHOWN:
            plan.filtered_lines.append(row.line)


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
    whole = (1 + SHALLOW * (deep_cache - 1)) / deep_cache
    cost = whole * _passes_gflop(card, _drawn_steps(row), row.guidance_scale, size)
    if row.upscale and card.upscaler:
        upscaler = catalogue.get(card.upscaler)
        cost += _passes_gflop(upscaler, upscaler.steps, upscaler.guidance_scale, size)
    return cost


def _passes_gflop(card: Card, steps: int, guidance_scale: float, size: int) -> float:
    passes = steps * (2 if guidance_scale > 1 else 1)
    return card.gflop_per_step * passes * size / (card.width * card.height)
