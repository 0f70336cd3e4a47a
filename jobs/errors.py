"""Exceptions whose messages are shown to the user: what went wrong, where, and what to do."""

from collections.abc import Iterable, Iterator


class NightmillError(Exception):
    """Base class of errors that are reported to the user as a message; the command ends with exit code 1."""

    exit_code = 1


class UsageError(NightmillError):
    """The command, an option or a setting is wrong; nothing was done. Exit code 2."""

    exit_code = 2


class ManifestError(UsageError):
    """The manifest as a whole can't be read: missing, of an unknown format, or damaged."""


class ServiceError(NightmillError):
    """PostgreSQL, Redis or the object store can't be reached or refuses a request."""


class ObjectStoreError(ServiceError):
    """The object store refuses a request, or an object differs from what was sent."""


class StoreUnavailableError(ObjectStoreError):
    """The object store doesn't answer or refuses all requests at present; not caused by a particular object."""


class StoreCredentialsError(StoreUnavailableError):
    """The object store refuses this process's key, or there is none; whatever is asked of it is refused."""


class StoreDeniedError(ObjectStoreError):
    """The object store knows the key, which has no permission for this object or bucket."""


class OutputGoneError(StoreUnavailableError):
    """The output folder was emptied or its share isn't mounted; writing there could fill the wrong disk."""


class ForeignOutputError(ObjectStoreError):
    """A batch's folder in the output belongs to another installation. Exit code 2."""

    exit_code = 2


class ContentSafetyError(ServiceError):
    """The content-safety service can't be used at present; `is_lasting`: not before a person has mended something."""

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting


class ContentRefusedError(ServiceError):
    """The content-safety service doesn't rate this image or prompt, which must not leave."""


class LeaseLostError(NightmillError):
    """Jobs are no longer held: their leases ran out or they were cancelled. Discard the work. `lost` has their ids."""

    def __init__(self, message: str, lost: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.lost = frozenset(lost)


class UnknownPolicyError(NightmillError):
    """A batch's policy has keys or values that this version doesn't know."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes and contexts, each once; such chains may have cycles."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__context__, found.__cause__]
