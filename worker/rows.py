"""How many images are drawn at once: by the settings, as was found for this device, or its default."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from jobs.settings import Settings
from models.capacity import Profile, Site, find
from models.errors import ModelError, OutOfMemoryError

log = logging.getLogger(__name__)

WORTH_TRYING = 256
"""Jobs of a lane from which on a trial pays: it costs as much as about twenty images."""

WORTH_COMPILING = 512
"""As much for compiling: it takes a minute or more for each size, and spares SD 1.5 an eighth of a second an image."""


class Rows:
    """What a worker's process knows of it. Numbers that the settings fix are lowered for this process only."""

    def __init__(self, settings: Settings) -> None:
        self._fixed = settings.gpu_rows
        self._profile = Profile(settings.models_path)
        self._known: dict[Site, int] = {}

    def of(self, site: Site, default: int, jobs: int | None = None) -> int:
        """Images at once; what was found is too much for a lane of so few `jobs` that most rows would be empty."""
        if self._fixed is None and site not in self._known and (found := self._profile.get(site)):
            self._known[site] = found.rows
        rows = self._known.get(site, self._fixed or default)
        if self._fixed is not None or jobs is None:
            return rows
        return min(rows, max(default, 1 << (jobs - 1).bit_length()))

    def lower(self, site: Site, rows: int) -> None:
        """More than `rows` don't fit, now nor later."""
        log.warning("out of memory: %s goes on with %d rows", site, rows)
        self._known[site] = rows
        if self._fixed is None:
            with self._is_noted():
                self._profile.lower(site, rows)

    def _is_unknown(self, site: Site) -> bool:
        return self._fixed is None and site not in self._known and self._profile.get(site) is None

    def measure(self, site: Site, speed: Callable[[int], float]) -> None:
        """Find it out where nobody knows; where not even one image fits, drawing will tell."""
        if not self._is_unknown(site):
            return
        with self._is_noted(), suppress(OutOfMemoryError), self._profile.measuring():
            if not self._is_unknown(site):  # somebody else did so meanwhile
                return
            found = find(speed)
            self._known[site] = found.rows
            log.info("%s draws %d images at once: %s", site, found.rows, found.report()["tried"])
            self._profile.put(site, found)

    @contextmanager
    def _is_noted(self) -> Iterator[None]:
        try:
            yield
        except ModelError as error:
            log.warning("%s; how many images are drawn at once can't be kept", error)
