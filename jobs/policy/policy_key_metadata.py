"""What a key of the batch policy has beside its type and default: the metadata that everything else is derived from."""

from dataclasses import dataclass
from enum import StrEnum


class Identity(StrEnum):
    """Whether batches that differ in a key are different batches, so that a submit with another value makes another."""

    ALWAYS = "always"
    """Yes, and the default is written into the digest, too: the keys of the first version."""
    UNLESS_DEFAULT = "unless default"
    """Yes; left at its default, the key isn't in the digest, so that batches from before it are recognised."""
    NEVER = "never"
    """No: it decides when the batch runs, not what comes out."""


@dataclass(frozen=True)
class PolicyKey:
    """Metadata of a key; the defaults suit a new key that affects the images."""

    identity: Identity = Identity.UNLESS_DEFAULT
    digest_with: str | None = None
    """Another key: this one is in the digest if that one isn't at its default, whatever its own value."""
    former_name: str | None = None
    """Is still read, with a warning, and is the key's name in digests."""
    is_changeable: bool = False
    """Whether `nightmill change` may change it once the batch is there."""
    is_recorded: bool = False
    """Whether a value other than the default is noted in the image rows, in `versions`."""
    is_chosen: bool = False
    """Whether ingest chooses the value unless it is given; the default is what batches of earlier versions have."""
    affects_images: bool = True
    """Whether images may differ with the value; those of another value are not reused then."""
    is_column: bool = False
    """Whether it is a column of `batches`, because statements of the queue compare it; else it lies in `policy`."""


SCHEDULE = PolicyKey(Identity.NEVER, is_changeable=True, is_column=True, affects_images=False)
CANARY = PolicyKey(Identity.NEVER, is_column=True, affects_images=False)
ORIGINAL = PolicyKey(Identity.ALWAYS)
# Keys that choose seeds affect images by the seed of each job alone.
BATCH_SEED = PolicyKey(Identity.ALWAYS, is_chosen=True, affects_images=False)
# A column, so that workers of the version before, which know no such key, render the batch: the jobs have their seeds.
SEED_SOURCE = PolicyKey(is_chosen=True, is_column=True, affects_images=False)
TARGET = PolicyKey(affects_images=False)
