"""Errors whose message is meant for the person at the keyboard: what was wrong, where, what to do."""

from collections.abc import Iterator


class NightmillError(Exception):
    """Something failed that the user can read about; the command ends with exit code 1."""

    exit_code = 1


class UsageError(NightmillError):
    """The command, an option or a setting was wrong; nothing was done. Exit code 2."""

    exit_code = 2


class ManifestError(UsageError):
    """The manifest as a whole can't be read: missing, of an unknown format, or damaged."""


class ServiceError(NightmillError):
    """PostgreSQL, Redis or the object store can't be reached or refused."""


class ObjectStoreError(ServiceError):
    """The object store refused, or what it holds isn't what was sent."""


class StoreUnavailableError(ObjectStoreError):
    """The object store doesn't answer, or takes nothing from here at present: no object in particular is to blame."""


class OutputGoneError(StoreUnavailableError):
    """The output's folder was emptied or its share isn't mounted: writing there would fill the wrong disk."""


class ForeignOutputError(ObjectStoreError):
    """A batch's folder in the output belongs to another installation. Exit code 2."""

    exit_code = 2


class LeaseLostError(NightmillError):
    """The job now belongs to somebody else: its lease ran out or it was cancelled; drop the work."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it was raised from or during, each once: such chains may be circles."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__context__, found.__cause__]
