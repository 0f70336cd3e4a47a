"""Tells the manifests beside images that nightmill wrote from those of others, who sign the images themselves.

Other programs put a manifest under the same name. A manifest has the SHA-256 of the file that it is of, and the digits
in the keys of our two files are of that and of the manifest's own (`key_layout.image_key`): neither the image nor a row
is needed to tell.
"""

import re
from hashlib import sha256

from jobs.storage.base import BadObjectError, ObjectStore, StoredObject
from jobs.storage.key_layout import ImageKey, digest_in_key, is_sidecar_key

MOST_SIDECAR_BYTES = 2 << 20
"""Of those that nightmill writes, the manifests of an input image have up to 1 MiB."""
# In CBOR: the field "hash", of 32 bytes, of `c2pa.hash.data`. Other assertions and ingredients have such a field, too.
_HASH = re.compile(rb"(?=dhash\x58\x20(.{32}))", re.DOTALL)


def is_own_file(store: ObjectStore, found: StoredObject, key: ImageKey) -> bool:
    """Whether nightmill can have written what was found under an image's or a sidecar's key.

    A sidecar is read; one that is damaged, or gone by now, is taken for somebody else's.
    """
    if not is_sidecar_key(found.key):
        return True
    if found.bytes > MOST_SIDECAR_BYTES:
        return False
    try:
        return is_own_sidecar(store.get(found.key), key.digest)
    except BadObjectError:
        return False


def is_own_sidecar(body: bytes, digest: str) -> bool:
    """Whether a key with these 12 digits is that of this manifest and of the image that it is of."""
    own = sha256(body).hexdigest()
    return any(digest_in_key(match[1].hex(), own) == digest for match in _HASH.finditer(body))
