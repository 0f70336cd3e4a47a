"""Worker seconds and joules of an image, from the quarters of an hour that workers spent in lanes of its kind."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.forecast.available_workers import UNKNOWN
from jobs.forecast.work_kinds_and_ranges import SPEED_KEYS, Range, WorkKind, range_of

MOST_QUARTERS = 96
"""The newest quarters of an hour of a kind on a device that count: a day of one worker."""

SHORT_S = 300
"""A worker that spent less time in a lane than this in a quarter of an hour has spent much of it on loading models."""

_MOST_LANES = 20
_SAMPLED_IMAGES = 200

EVALUATIONS = """sum(greatest(1, floor(steps * coalesce(strength, 1))) * CASE WHEN guidance_scale > 1 THEN 2 ELSE 1 END)
        / count(*)"""
"""Mean evaluations of the UNet for an image or job: its steps, twice with guidance."""

OPTIONS = ", ".join(f"policy ->> '{key}' AS {key}" for key in SPEED_KEYS)

# Of each batch the newest images are looked at: lanes don't know their steps, and copies of images take no time.
_MEASURED = text(f"""
    WITH newest AS (
        SELECT lanes.*, row_number() OVER (
            PARTITION BY model, mode, lora, width, height, upscale ORDER BY chosen_at DESC) AS place
        FROM lanes WHERE chosen_at IS NOT NULL AND (model, mode, width, height, upscale) IN (
            SELECT * FROM unnest(CAST(:models AS text[]), CAST(:modes AS text[]), CAST(:widths AS integer[]),
                CAST(:heights AS integer[]), CAST(:upscales AS integer[])))
    ), lane AS (
        SELECT * FROM newest WHERE place <= {_MOST_LANES}
    ), sample AS (
        SELECT batch_id, model, mode, lora, upscale, generated_width, generated_height, {EVALUATIONS} AS evaluations,
            avg(CASE WHEN reused_from IS NULL THEN 0 ELSE 1 END) AS copied
        FROM (SELECT DISTINCT batch_id AS id FROM lane) AS measured CROSS JOIN LATERAL (
            SELECT * FROM images WHERE batch_id = measured.id ORDER BY created_at DESC LIMIT {_SAMPLED_IMAGES}) AS i
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    ), of_lane AS (
        SELECT lane.id, avg(evaluations) AS evaluations, avg(copied) AS copied
        FROM lane JOIN sample ON sample.batch_id = lane.batch_id AND sample.model = lane.model
            AND sample.mode = lane.mode AND sample.lora = lane.lora AND sample.upscale = lane.upscale
            AND (lane.width = 0 OR (lane.width = generated_width AND lane.height = generated_height))
        GROUP BY lane.id
    ), used AS (
        SELECT lane_id, began_at, device, sum(worker_s) AS worker_s, sum(device_s) AS device_s, sum(images) AS images,
            sum(worker_s) < {SHORT_S} * count(*) AS is_short, CASE
            WHEN bool_and(joules IS NOT NULL) THEN sum(joules) END AS joules
        FROM lane_usage WHERE batch_id IN (SELECT batch_id FROM lane) GROUP BY 1, 2, 3
    )
    SELECT model, mode, lora, width, height, upscale, {OPTIONS}, coalesce(began_at, chosen_at) AS began_at, device,
        worker_s, device_s, is_short, used.images, joules, image_s, evaluations, coalesce(copied, 0) AS copied
    FROM lane JOIN batches ON batches.id = lane.batch_id LEFT JOIN used ON used.lane_id = lane.id
        LEFT JOIN of_lane ON of_lane.id = lane.id
    WHERE used.images > 0 OR (used.lane_id IS NULL AND image_s > 0)
    ORDER BY began_at DESC, lane.id, device
""")


@dataclass(frozen=True, slots=True)
class MeasuredQuarter:
    """What workers on a device did in a lane in a quarter of an hour; an empty device: not known any more.

    `seconds` of a worker are a range where most of the time may have gone into loading models: from the seconds in
    device batches to all of them.
    """

    began_at: datetime
    device: str
    images: float
    seconds: Range
    image_joules: float | None
    evaluations: float | None


@dataclass(frozen=True, slots=True)
class ImageTime:
    """Worker seconds and joules of an image, from so many quarters of an hour with so many images."""

    seconds: Range
    joules: Range | None
    quarters: int
    images: int
    has_other_loras: bool = False
    is_scaled: bool = False
    """Whether images with other steps or guidance were measured."""


@dataclass
class Measurements:
    """All that was measured of some kinds of lanes."""

    quarters: dict[WorkKind, list[MeasuredQuarter]] = field(default_factory=lambda: defaultdict(list))
    """The newest first."""

    def of(self, kind: WorkKind, device: str, evaluations: float | None) -> ImageTime | None:
        """Return what an image of the kind takes on the device; None if that wasn't measured."""
        exact = _on(self.quarters.get(kind, ()), device)
        found = exact or _on(self._with_any_lora(kind), device)
        if not found:
            return None
        return _image_time(found[:MOST_QUARTERS], evaluations, has_other_loras=not exact)

    def devices(self, kind: WorkKind) -> list[str]:
        """Return the devices that the kind was measured on, the last one first."""
        found = sorted(self._with_any_lora(kind), key=lambda quarter: quarter.began_at, reverse=True)
        return list(dict.fromkeys(quarter.device for quarter in found))

    def _with_any_lora(self, kind: WorkKind) -> list[MeasuredQuarter]:
        return [
            quarter
            for other, quarters in self.quarters.items()
            if other.without_lora == kind.without_lora
            for quarter in quarters
        ]


def measurements(engine: Engine, kinds: Collection[WorkKind]) -> Measurements:
    """Return what workers have measured in lanes of these kinds, with whatever LoRAs and options."""
    shapes = sorted({(kind.model, kind.mode, kind.width, kind.height, kind.upscale) for kind in kinds})
    names = ("models", "modes", "widths", "heights", "upscales")
    values = {name: [shape[place] for shape in shapes] for place, name in enumerate(names)}
    found = Measurements()
    for row in run(engine, _MEASURED, values):
        if (quarter := _quarter(row)) is not None:
            found.quarters[kind_of(row)].append(quarter)
    return found


def kind_of(row: Any) -> WorkKind:
    """Return the kind of work of a row with a lane's columns and OPTIONS."""
    options = tuple(getattr(row, key) for key in SPEED_KEYS)
    return WorkKind(row.model, row.mode, row.lora, row.width, row.height, row.upscale, options)


def _quarter(row: Any) -> MeasuredQuarter | None:
    evaluations = None if row.evaluations is None else float(row.evaluations)
    if row.device is None:
        return MeasuredQuarter(row.began_at, "", 1, Range(row.image_s, row.image_s), None, evaluations)
    images = float(row.images) * (1 - float(row.copied))
    if images < 1:
        return None
    joules = None if row.joules is None else row.joules / images
    seconds = Range(((row.is_short and row.device_s) or row.worker_s) / images, row.worker_s / images)
    return MeasuredQuarter(row.began_at, row.device, images, seconds, joules, evaluations)


def _on(quarters: Iterable[MeasuredQuarter], device: str) -> list[MeasuredQuarter]:
    """Return those on the device, all of them if it isn't known; else, those of which the device isn't known."""
    known = list(quarters)
    if device == UNKNOWN:
        return known
    return [each for each in known if each.device == device] or [each for each in known if not each.device]


def _image_time(
    quarters: Sequence[MeasuredQuarter], evaluations: float | None, *, has_other_loras: bool
) -> ImageTime:
    ratios = [_ratio(each, evaluations) for each in quarters]
    scaled = [
        (each.seconds.scaled_by_steps(ratio), each.images)
        for each, ratio in zip(quarters, ratios, strict=True)
    ]
    joules = [
        (Range(each.image_joules, each.image_joules).scaled_by_steps(ratio), each.images)
        for each, ratio in zip(quarters, ratios, strict=True)
        if each.image_joules is not None
    ]
    return ImageTime(
        _both_ends(scaled),
        _both_ends(joules) if len(joules) == len(scaled) else None,
        len(quarters),
        round(sum(each.images for each in quarters)),
        has_other_loras,
        any(abs(ratio - 1) > 0.001 for ratio in ratios),
    )


def _both_ends(ranges: Sequence[tuple[Range, float]]) -> Range:
    lows, highs = ([(getattr(each, end), weight) for each, weight in ranges] for end in ("low", "high"))
    return Range(range_of(lows).low, range_of(highs).high)


def _ratio(quarter: MeasuredQuarter, evaluations: float | None) -> float:
    return evaluations / quarter.evaluations if evaluations and quarter.evaluations else 1.0
