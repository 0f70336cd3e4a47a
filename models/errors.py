"""Exceptions of the models package; their messages are shown to the user."""


class ModelError(Exception):
    """A model can't be found, read or run."""


class UnknownModelError(ModelError):
    """No card of the catalogue has this id or alias."""


class CheckpointError(ModelError):
    """The files of a checkpoint are missing, damaged or of a kind that is refused (pickles, remote code)."""


class MissingPackagesError(ModelError):
    """Packages that an extra of nightmill installs are missing here. Exit code 2."""


class OutOfMemoryError(ModelError):
    """The device has no memory left for a batch of this size."""


class SafetyUnknownError(ModelError):
    """The safety checker gave no usable result for an image, which therefore must not be published."""


class SigningIdentityError(ModelError):
    """A signing identity can't be used: what is wrong with its key or certificates."""


class SigningError(ModelError):
    """A file can't be signed."""


class InterruptedRender(ModelError):  # noqa: N818 - not a failure: the caller asked to stop
    """The caller asked to stop between two steps."""
