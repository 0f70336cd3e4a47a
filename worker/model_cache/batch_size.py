"""The number of images per device batch: fixed by the settings, measured on this device, or the device's default."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from jobs.settings import Settings
from models.errors import ModelError, OutOfMemoryError
from models.runtime.batch_size_profile import Capacity, Profile, Site, find

log = logging.getLogger(__name__)

WORTH_TRYING = 256
"""The number of jobs in a lane from which measuring pays: it costs as much as about twenty images."""

WORTH_COMPILING = 512
"""The number from which compiling pays: it takes a minute or more per size and saves SD 1.5 0.125 s per image."""


_ANY = 2**31
LOWERED_S = 600.0
"""How long a process uses smaller batches after memory ran out: other processes' use of it may be temporary."""


class BatchSizes:
    """The batch sizes that a worker process uses.

    Where memory runs out, the process uses a smaller batch for ten minutes. Only if it runs out again, and other
    processes hold little of it, the smaller size is stored for all workers, for a day; not if the settings fix it.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._fixed = settings.batch_size
        self._profile = Profile(settings.models_path)
        self._known: dict[Site, Capacity] = {}
        self._lowered: dict[Site, tuple[int, float]] = {}
        self._clock = clock

    def of(self, site: Site, default: int, jobs: int | None = None) -> int:
        """Return the batch size; limited for a lane of so few `jobs` that most of a measured batch would be empty."""
        if self._fixed is None and site not in self._known and (found := self._profile.get(site)):
            self._known[site] = found
        known = self._known[site].at(datetime.now(UTC)) if site in self._known else None
        rows = min(known.rows if known else self._fixed or default, self._limit(site))
        if self._fixed is not None or jobs is None:
            return rows
        return min(rows, max(default, 1 << (jobs - 1).bit_length()))

    def lower(self, site: Site, rows: int, *, is_ours: bool = False) -> None:
        """Limit the batch to `rows` for now; `is_ours`: other processes hold little of the memory."""
        log.warning("out of memory: %s goes on with %d rows", site, rows)
        recurs = site in self._lowered
        self._lowered[site] = rows, self._clock() + LOWERED_S
        if self._fixed is None and recurs and is_ours:
            self._known.pop(site, None)
            with self._is_noted():
                self._profile.lower(site, rows)

    def _limit(self, site: Site) -> int:
        rows, until = self._lowered.get(site, (_ANY, math.inf))
        return rows if self._clock() < until else _ANY

    def _is_unknown(self, site: Site) -> bool:
        return self._fixed is None and site not in self._known and self._profile.get(site) is None

    def measure(self, site: Site, speed: Callable[[int], float]) -> None:
        """Measure the best batch size if it is unknown; if not even one image fits, rendering reports that later."""
        if not self._is_unknown(site):
            return
        with self._is_noted(), suppress(OutOfMemoryError), self._profile.measuring():
            if not self._is_unknown(site):  # another process measured it meanwhile
                return
            found = find(speed)
            self._known[site] = found
            log.info("%s renders %d images at once: %s", site, found.rows, found.report()["tried"])
            self._profile.put(site, found)

    @contextmanager
    def _is_noted(self) -> Iterator[None]:
        try:
            yield
        except ModelError as error:
            log.warning("%s; the measured batch size can't be stored", error)
