"""How many images a model draws at once, found by trying and kept beside the models."""

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
    """Where images are drawn: a device by its label, a model by its card's id, in a number format, packed or not.

    `width` and `height` are pixels of what the model reads and draws; of an upscaler, those of the small picture.
    """

    device: str
    model: str
    width: int
    height: int
    dtype: str
    weights: str = "full"

    @classmethod
    def on(cls, device: "Device", model: str, width: int, height: int, weights: str) -> Self:
        """A site on this device."""
        return cls(device.label, model, width, height, str(device.dtype).removeprefix("torch."), weights)

    def __str__(self) -> str:
        return f"{self.model} {self.width}x{self.height} {self.dtype} {self.weights}"


@dataclass(frozen=True)
class Capacity:
    """`rows` images at once; `tried` gives the images' steps a second for the numbers of them that fitted.

    Where memory ran out again and again, `is_lowered` and it was `measured` then; `found` is the number from before.
    """

    rows: int
    tried: Mapping[int, float]
    measured: str
    is_lowered: bool = False
    found: int | None = None

    def report(self) -> dict[str, Any]:
        """As the file and `--json` have it."""
        tried = {str(rows): round(speed, 3) for rows, speed in self.tried.items()}
        return {
            "rows": self.rows,
            "tried": tried,
            "measured": self.measured,
            "is_lowered": self.is_lowered,
        } | ({"found": self.found} if self.found else {})

    def at(self, now: datetime) -> Self | None:
        """What is left of it: one that was lowered over a day ago is as before, or nothing if nothing was found."""
        if not self.is_lowered or now - datetime.fromisoformat(self.measured) < LOWERED_FOR:
            return self
        rows = self.found or (_enough(self.tried) if self.tried else None)
        return replace(self, rows=rows, is_lowered=False, found=None) if rows else None

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Self:
        """From the file; ValueError, KeyError or TypeError if it is none."""
        rows = int(report["rows"])
        if not 1 <= rows <= 256:
            raise ValueError(f"no number of rows: {rows}")
        tried = {int(tried): float(speed) for tried, speed in report["tried"].items()}
        is_lowered, found = bool(report["is_lowered"]), report.get("found")
        if is_lowered:
            datetime.fromisoformat(report["measured"]).astimezone(UTC)
        return cls(rows, tried, str(report["measured"]), is_lowered, found and int(found))


def find(speed: Callable[[int], float], most: int = MOST) -> Capacity:
    """The smallest number of images that is about as fast as any: 1, 2, 4, … are tried until more bring nothing.

    `speed(rows)` gives images' steps a second and raises OutOfMemoryError, as this does where not even one image
    fits. No number is tried when ten seconds are over.
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
    """The last two doublings brought next to nothing."""
    values = list(tried.values())
    return len(values) > 2 and max(values[-2:]) * _ENOUGH < max(values[:-2])


class Profile:
    """The file `capacity.json` in the models folder: capacities by device and site."""

    def __init__(self, models_dir: Path) -> None:
        self._folder, self._file = models_dir, models_dir / "capacity.json"

    def get(self, site: Site) -> Capacity | None:
        """What was found; None where nothing was."""
        noted = self.all().get(site.device, {}).get(str(site))
        return noted and noted.at(datetime.now(UTC))

    def all(self) -> dict[str, dict[str, Capacity]]:
        """Everything that was found, by device and site; nothing where the file is no such file."""
        try:
            return {
                device: {name: Capacity.of(report) for name, report in sites.items()}
                for device, sites in json.loads(self._file.read_text(encoding="utf-8")).items()
            }
        except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError):
            return {}

    def put(self, site: Site, capacity: Capacity) -> None:
        """Note it, whatever was there. Raises ModelError where the folder can't be written to."""
        with self._changing() as found:
            found.setdefault(site.device, {})[str(site)] = capacity

    def lower(self, site: Site, rows: int) -> None:
        """Note for a day that more than `rows` didn't fit. Raises ModelError as `put` does."""
        known = self.get(site)
        found = (known.found or known.rows) if known else None
        self.put(site, Capacity(rows, known.tried if known else {}, _now(), is_lowered=True, found=found))

    def forget(self, model: str) -> int:
        """Drop what was found for a model; how much that was. Raises ModelError as `put` does."""
        with self._changing() as found:
            names = [(device, name) for device in found for name in found[device] if name.split()[0] == model]
            for device, name in names:
                del found[device][name]
        return len(names)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Within it, nobody else on this machine measures: both would be too slow. Raises ModelError as `put` does."""
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
