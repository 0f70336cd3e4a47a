"""Batch sizes per model and device, found by measurement and stored in the models folder."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from models.errors import ModelError, OutOfMemoryError
from models.runtime.file_lock import exclusive

if TYPE_CHECKING:
    from models.runtime.device import Device

MOST = 64
TRIAL_S = 10.0
LOWERED_FOR = timedelta(days=1)
_ENOUGH = 0.9


@dataclass(frozen=True)
class Site:
    """The key of a measurement: device label, model card id, image size, number format and weight format.

    `width` and `height` are in pixels of the model's input and output; for an upscaler, those of the small image.
    """

    device: str
    model: str
    width: int
    height: int
    dtype: str
    weights: str = "full"

    @classmethod
    def on(cls, device: "Device", model: str, width: int, height: int, weights: str) -> Self:
        """Return the key for a model on this device."""
        return cls(device.label, model, width, height, str(device.dtype).removeprefix("torch."), weights)

    def __str__(self) -> str:
        return f"{self.model} {self.width}x{self.height} {self.dtype} {self.weights}"


@dataclass(frozen=True)
class Capacity:
    """A measured batch size: `rows` images at a time; `tried` maps batch sizes that fitted to image steps per second.

    `is_lowered` marks a size reduced at `measured` because memory ran out repeatedly; `found` is the size before that.
    """

    rows: int
    tried: Mapping[int, float]
    measured: str
    is_lowered: bool = False
    found: int | None = None

    def report(self) -> dict[str, Any]:
        """Return the value as it appears in the file and in `--json` output."""
        tried = {str(rows): round(speed, 3) for rows, speed in self.tried.items()}
        return {
            "rows": self.rows,
            "tried": tried,
            "measured": self.measured,
            "is_lowered": self.is_lowered,
        } | ({"found": self.found} if self.found else {})

    def at(self, now: datetime) -> Self | None:
        """Return the value valid at `now`: a reduction expires after a day, to None if nothing was measured before."""
        if not self.is_lowered or now - datetime.fromisoformat(self.measured) < LOWERED_FOR:
            return self
        rows = self.found or (_enough(self.tried) if self.tried else None)
        return replace(self, rows=rows, is_lowered=False, found=None) if rows else None

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Self:
        """Parse an entry of the file. Raises ValueError, KeyError or TypeError if it is malformed."""
        rows = int(report["rows"])
        if not 1 <= rows <= 256:
            raise ValueError(f"no number of rows: {rows}")
        tried = {int(tried): float(speed) for tried, speed in report["tried"].items()}
        is_lowered, found = bool(report["is_lowered"]), report.get("found")
        if is_lowered:
            datetime.fromisoformat(report["measured"]).astimezone(UTC)
        return cls(rows, tried, str(report["measured"]), is_lowered, found and int(found))


def find(speed: Callable[[int], float], most: int = MOST) -> Capacity:
    """Find the smallest batch size near the highest speed, by trying 1, 2, 4, … until larger ones are no faster.

    `speed(rows)` returns image steps per second or raises OutOfMemoryError, which propagates if not even one image
    fits. No further size is tried after ten seconds.
    """
    tried: dict[int, float] = {}
    rows, until = 1, time.monotonic() + TRIAL_S
    while not tried or (rows <= most and time.monotonic() < until and not _is_past_the_best(tried)):
        try:
            tried[rows] = speed(rows)
        except OutOfMemoryError:
            if not tried:
                raise
            break
        rows *= 2
    return Capacity(_enough(tried), tried, _now())


def _enough(tried: Mapping[int, float]) -> int:
    best = max(tried.values())
    return min(rows for rows, value in tried.items() if value >= _ENOUGH * best)


def _is_past_the_best(tried: Mapping[int, float]) -> bool:
    """Whether the last two doublings brought next to no gain."""
    values = list(tried.values())
    return len(values) > 2 and max(values[-2:]) * _ENOUGH < max(values[:-2])


class Profile:
    """The file `capacity.json` in the models folder: batch sizes by device and `Site`."""

    def __init__(self, models_dir: Path) -> None:
        self._folder, self._file = models_dir, models_dir / "capacity.json"

    def get(self, site: Site) -> Capacity | None:
        """Return the stored batch size, or None."""
        noted = self.all().get(site.device, {}).get(str(site))
        return noted and noted.at(datetime.now(UTC))

    def all(self) -> dict[str, dict[str, Capacity]]:
        """Return all entries by device and site; an empty dict if the file is missing or malformed."""
        try:
            return {
                device: {name: Capacity.of(report) for name, report in sites.items()}
                for device, sites in json.loads(self._file.read_text(encoding="utf-8")).items()
            }
        except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError):
            return {}

    def put(self, site: Site, capacity: Capacity) -> None:
        """Store a batch size, replacing any earlier one. Raises ModelError if the folder can't be written to."""
        with self._changing() as found:
            found.setdefault(site.device, {})[str(site)] = capacity

    def lower(self, site: Site, rows: int) -> None:
        """Limit the batch size to `rows` for a day, after more didn't fit. Raises ModelError as `put` does."""
        known = self.get(site)
        found = (known.found or known.rows) if known else None
        self.put(site, Capacity(rows, known.tried if known else {}, _now(), is_lowered=True, found=found))

    def forget(self, model: str) -> int:
        """Delete the entries of a model and return their number. Raises ModelError as `put` does."""
        with self._changing() as found:
            names = [(device, name) for device in found for name in found[device] if name.split()[0] == model]
            for device, name in names:
                del found[device][name]
        return len(names)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Exclude other measurements on this machine, which would slow both down. Raises ModelError as `put` does."""
        with exclusive(self._folder, ".measuring"):
            yield

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, dict[str, Capacity]]]:
        with exclusive(self._folder, ".capacity"):
            found = self.all()
            yield found
            reports = {
                device: {name: capacity.report() for name, capacity in sites.items()}
                for device, sites in found.items()
            }
            new = self._file.with_suffix(".new")
            try:
                new.write_text(json.dumps(reports, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                new.replace(self._file)
            except OSError as error:
                raise ModelError(f"can't write {self._file}: {error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
