"""Classifies errors: the fault of one job, or of the host and the services that it needs."""

import errno

from jobs.errors import ContentSafetyError, NightmillError, StoreUnavailableError

_OF_THE_HOST = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.ESTALE,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
    }
)


class HostFaultError(NightmillError):
    """The host or a service prevented a job: the job is released to the queue without counting an attempt."""


class LaneDoubtedError(HostFaultError):
    """Jobs of a lane failed in a row on this host: they were released, and the worker avoids the lane for a while."""


def is_host_fault(error: BaseException) -> bool:
    """Whether any job would meet this error on this host: a full disk, a store that doesn't answer, a lost mount.

    An error about one object or input image (it is missing, damaged, forbidden) is its job's fault.
    """
    if isinstance(error, HostFaultError | StoreUnavailableError | ContentSafetyError):
        return True
    if isinstance(error, OSError) and error.errno in _OF_THE_HOST:
        return True
    return error.__cause__ is not None and is_host_fault(error.__cause__)


def reason_of(error: BaseException) -> str:
    """Return the error in one line; exceptions from outside this project are prefixed with their type."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    is_ours = type(error).__module__.partition(".")[0] in ("jobs", "models", "worker")
    return said if is_ours and said else f"{type(error).__name__}: {said}".removesuffix(": ")
