"""What goes wrong with time stamps."""

from jobs.errors import NightmillError


class TimeStampError(NightmillError):
    """There is no time stamp, or it isn't right; the message says why."""


class UntrustedAuthorityError(TimeStampError):
    """A time stamp is right in itself, but no trusted authority has issued its certificate."""
