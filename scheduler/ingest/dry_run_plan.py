"""What a dry run of a submit has found, and how `plan --json` prints it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.manifest import LineCounts, Reject
from jobs.policy.batch_policy import BatchPolicy
from jobs.states import SeedSource
from scheduler.ingest.duplicate_detection import SHOWN, Repeated
from scheduler.ingest.estimate_replacement_jobs import expected_replacements
from scheduler.ingest.submit_request import SubmitRequest

BYTES_PER_PIXEL = {"png": 1.8, "webp": 0.5, "jpeg": 0.7}  # of photographs; noise takes up to 3 in PNG

_LANE = ("model", "mode", "lora", "width", "height", "upscale")

Shape = tuple[str, str, str, int, int, int]


@dataclass
class LaneSums:
    """Sums over the images of a tenant's lane: images, evaluations of the UNet, GFLOP."""

    jobs: int = 0
    evaluations: int = 0
    gflop: float = 0.0


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
    sums: dict[tuple[str, Shape], LaneSums] = field(default_factory=dict)
    """By tenant and lane, of the rows that were looked at: neither a sample nor a target is accounted for."""
    pictures: set[int] = field(default_factory=set)
    missing_pictures: int = 0
    gflop: float = 0.0
    pixels: int = 0
    truncated: int = 0
    truncated_lines: list[int] = field(default_factory=list)
    truncated_negatives: int = 0
    truncated_negative_lines: list[int] = field(default_factory=list)
    tokens_unknown: list[str] = field(default_factory=list)
    filtered: int = 0
    """Rows whose prompts hold a term of the prompt filter."""
    filtered_lines: list[int] = field(default_factory=list)
    filtered_terms: Counter[str] = field(default_factory=Counter)
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
        counted = (
            "jobs",
            "rejected",
            "missing_pictures",
            "truncated",
            "truncated_negatives",
            "filtered",
            "pixels",
        )
        for name in counted:
            setattr(self, name, round(getattr(self, name) * share))
        self.gflop *= share
        for counts in (self.reasons, self.lanes, self.syntax, self.filtered_terms):
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


def report(plan: Plan, request: SubmitRequest, seconds: float | None) -> dict[str, Any]:
    """Return the plan as `plan --json` prints it."""
    return {
        "manifest": request.manifest.label,
        "format": request.manifest.format,
        "rows": plan.rows,
        "sample": plan.sample,
        "batch_seed": request.batch_seed,
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
        "filtered_prompts": plan.filtered,
        "filtered_prompt_lines": plan.filtered_lines,
        "filtered_prompt_terms": dict(plan.filtered_terms.most_common(SHOWN)),
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
        "estimated_bytes": plan.bytes(request.policy.format),
    }


def _by(plan: Plan, place: int) -> dict[str, int]:
    """Return the jobs by one element of their lane's shape."""
    counts: Counter[str] = Counter()
    for shape, jobs in sorted(plan.lanes.items()):
        counts[str(shape[place])] += jobs
    return dict(counts)
