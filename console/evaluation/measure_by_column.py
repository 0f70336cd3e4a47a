"""Measure a batch's pictures for each value of a column: CLIP score and share that match their prompt."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any

from PIL import Image

from jobs.errors import UsageError

if TYPE_CHECKING:
    from models.assess.safety_checker import Pixels

Value = str | int | float | bool | None

COLUMNS = (
    "guidance_scale",
    "steps",
    "sampler",
    "model",
    "lora",
    "strength",
    "upscale",
    "noise_level",
    "mode",
)
MOST_VALUES = 200
_AT_ONCE = 16
_Z = 1.959964  # 97.5 % quantile of the normal distribution, for 95 % intervals
_ALTERED = ("blackened", "blurred")


@dataclass(frozen=True)
class Instruments:
    """Functions to measure pictures. `score` takes pictures and prompts, `judge` one prompt and picture.

    `read` returns an image record's file, `judges` whether a model's pictures are judged. The score in an image record
    is used if it is from the CLIP `clip_model`.
    """

    read: Callable[[dict[str, Any]], bytes]
    clip_model: str | None = None
    score: Callable[[Sequence["Pixels"], Sequence[str]], list[float]] | None = None
    judge: Callable[[str, "Pixels"], bool | None] | None = None
    judges: Callable[[str], bool] = lambda _: False


@dataclass
class Point:
    """Measurements for one value of the column: mean CLIP score, and how many of the judged pictures match."""

    value: Value
    n: int = 0
    scored: int = 0
    judged: int = 0
    matching: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add_score(self, score: float) -> None:
        """Add a CLIP score (Welford's mean and sum of squared differences)."""
        self.scored += 1
        difference = score - self.mean
        self.mean += difference / self.scored
        self.squares += difference * (score - self.mean)

    def add_judgement(self, matches: bool) -> None:
        """Add the result for a judged picture."""
        self.judged += 1
        self.matching += matches

    def report(self) -> dict[str, Any]:
        """Return the values as `evaluate --json` prints them: intervals are 95 %, None if nothing was measured."""
        share = self.matching / self.judged if self.judged else None
        return {
            "value": self.value,
            "n": self.n,
            "clip_score": round(self.mean, 3) if self.scored else None,
            "clip_score_ci": self._normal(),
            "scored": self.scored,
            "prompt_match": share and round(share, 4),
            "prompt_match_ci": self._wilson(),
            "judged": self.judged,
        }

    def _normal(self) -> list[float] | None:
        if self.scored < 2:
            return None
        half = _Z * math.sqrt(self.squares / (self.scored - 1) / self.scored)
        return [round(self.mean - half, 3), round(self.mean + half, 3)]

    def _wilson(self) -> list[float] | None:
        """Return Wilson's interval (1927), which stays within 0 to 1 for shares near these bounds."""
        if not self.judged:
            return None
        n, share = self.judged, self.matching / self.judged
        middle = share + _Z**2 / (2 * n)
        half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
        return [round(max(0.0, (middle + end) / (1 + _Z**2 / n)), 4) for end in (-half, half)]


@dataclass
class Measured:
    """The points of an evaluation; `altered` counts pictures that were blackened or blurred and are in no point."""

    points: dict[str, Point] = field(default_factory=dict)
    altered: int = 0

    def sorted(self) -> list[Point]:
        """Return the points with numbers first, in ascending order, then texts in their order of appearance."""
        return sorted(self.points.values(), key=_order)


def measure(
    records: Iterable[dict[str, Any]],
    by: str,
    instruments: Instruments,
    on_pictures: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Measure the pictures of image records, grouped by the column `by`, a known one or a field of `meta`.

    Raises UsageError for a column with too many values for a figure, and the exceptions of the instruments.
    """
    measured = Measured()
    done = 0
    remaining = iter(records)
    while chunk := list(islice(remaining, _AT_ONCE)):
        whole = [record for record in chunk if record["safety_verdict"] not in _ALTERED]
        measured.altered += len(chunk) - len(whole)
        _measure(whole, [_point(measured, by, record) for record in whole], instruments)
        done += len(chunk)
        on_pictures(done)
    return measured


def _measure(records: Sequence[dict[str, Any]], points: Sequence[Point], instruments: Instruments) -> None:
    unscored: list[tuple[Point, Pixels, str]] = []
    for record, point in zip(records, points, strict=True):
        point.n += 1
        known = _recorded(record, instruments.clip_model)
        is_judged = instruments.judge is not None and instruments.judges(record["model"])
        is_scored = instruments.score is not None and known is None and record["prompt"].strip()
        if known is not None:
            point.add_score(known)
        if not is_judged and not is_scored:
            continue
        pixels = _pixels(instruments.read(record))
        if is_scored:
            unscored.append((point, pixels, record["prompt"]))
        matches = instruments.judge(record["prompt"], pixels) if instruments.judge and is_judged else None
        if matches is not None:
            point.add_judgement(matches)
    if unscored and instruments.score:
        scores = instruments.score([pixels for _, pixels, _ in unscored], [prompt for *_, prompt in unscored])
        for (point, _, _), score in zip(unscored, scores, strict=True):
            point.add_score(score)


def _recorded(record: dict[str, Any], clip_model: str | None) -> float | None:
    quality = record.get("quality") or {}
    score = quality.get("clip_score")
    return (
        None
        if score is None or clip_model is None or quality.get("clip_model") != clip_model
        else float(score)
    )


def _point(measured: Measured, by: str, record: dict[str, Any]) -> Point:
    value = record[by] if by in COLUMNS else record["meta"].get(by)
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    key = json.dumps(value)
    if key not in measured.points:
        if len(measured.points) == MOST_VALUES:
            raise UsageError(
                f"--by {by}: has over {MOST_VALUES} values, too many for a figure; choose another column"
            )
        measured.points[key] = Point(value)
    return measured.points[key]


def _pixels(body: bytes) -> "Pixels":
    import numpy as np  # noqa: PLC0415 - takes a tenth of a second to import; other commands don't need it

    with Image.open(BytesIO(body)) as image:
        return np.asarray(image.convert("RGB"))


def _order(point: Point) -> tuple[bool, float]:
    value = point.value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return not is_number, float(value) if is_number else 0.0  # type: ignore[arg-type]
