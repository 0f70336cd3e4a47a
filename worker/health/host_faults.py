"""Whose fault an error is: that of one job, or of the host that it happened on and the services that it needs."""

import errno

from jobs.errors import NightmillError, StoreUnavailableError

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
    """The host or a service kept a job from being done: the job goes back to the queue, uncharged."""


class LaneDoubtedError(HostFaultError):
    """Job after job of a lane failed here: they went back, and the lane is left to others for a while."""


def is_host_fault(error: BaseException) -> bool:
    """Whether any job would have met this error here: a full disk, a store that doesn't answer, a lost mount.

    What is said of one object or picture (it is missing, damaged, forbidden) is its job's fault.
    """
    if isinstance(error, HostFaultError | StoreUnavailableError):
        return True
    if isinstance(error, OSError) and error.errno in _OF_THE_HOST:
        return True
    return error.__cause__ is not None and is_host_fault(error.__cause__)


def reason_of(error: BaseException) -> str:
    """The error in one line; what isn't written for people is named by its type."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    is_ours = type(error).__module__.partition(".")[0] in ("jobs", "models", "worker")
    return said if is_ours and said else f"{type(error).__name__}: {said}".removesuffix(": ")
