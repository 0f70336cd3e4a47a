"""The target folder of an export: its record files, and which files in it earlier exports of this installation wrote.

An export keeps the record `_INCOMPLETE` while it writes and `_SUCCESS` when it is done. Both list the files with their
SHA-256, so that the next export knows what it may delete: a file that isn't listed, or has a different digest, belongs
to someone else.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from jobs.storage.base import MissingObjectError, ObjectStore, digest_if_there, is_key
from jobs.storage.key_layout import IMAGE_COPY, PARTITIONED, belongs_to_table, is_image_name, part_format

SUCCESS = "_SUCCESS"
INCOMPLETE = "_INCOMPLETE"
RECORDS = (SUCCESS, INCOMPLETE)

_OTHER_NAMES = re.compile(
    r"_?(README\.md|SHA256SUMS|croissant\.json|datacontract\.yaml)|\.(nv-meta|pictures)/.+|[0-9]{5,}\.(tar|tar\.idx|parquet)"
    r"|data/[A-Za-z0-9_]+-[0-9]{5,}-of-[0-9]{5,}\.parquet|data/[0-9]{5,}-[0-9a-f]{12}\.(parquet|lance)"
    rf"|{PARTITIONED}|{IMAGE_COPY}"
)
"""Files of exports that aren't named `part-NNNNN`: of other formats, of the index, and copies of images."""

_OF_DATASET = re.compile(
    r"_?(README\.md|SHA256SUMS|croissant\.json|datacontract\.yaml)|\.pictures/[0-9]\.[a-z]+"
    r"|\.nv-meta/(\.info\.json|dataset\.yaml|index\.sqlite|split\.yaml)"
)
"""Files about an export as a whole, which are of no shard."""
_FOLDER_OF_IMAGES = re.compile(r"[A-Za-z0-9_]+/[0-9]{5,}")
_ROWS_OF_FOLDER = re.compile(rf"{_FOLDER_OF_IMAGES.pattern}/metadata\.parquet")
"""Rows beside the images of `hf` in folders. They aren't in the way of an export: readers give their folder's name."""


def is_about_dataset(name: str) -> bool:
    """Whether a file's name, within an export's folder, is one of those that exports give to their index."""
    return _OF_DATASET.fullmatch(name) is not None


def is_named_like_export(name: str) -> bool:
    """Whether a file's name, within an export's folder, is one that exports give to rows, images or their index.

    Of images in folders, as `hf` has them, `is_in_folder_of_images` tells: a batch's own images have such names, too.
    """
    patterns = (_OTHER_NAMES, _ROWS_OF_FOLDER)
    return part_format(name) is not None or any(pattern.fullmatch(name) for pattern in patterns)


def is_in_folder_of_images(name: str) -> bool:
    """Whether `hf` gives this name, within an export's folder, to an image or its sidecar in a folder of a split."""
    folder, _, file = name.rpartition("/")
    return _FOLDER_OF_IMAGES.fullmatch(folder) is not None and is_image_name(file)


Digests = Mapping[str, Collection[str]]
"""SHA-256 that a file may have, by its name in the export's folder."""


@dataclass(frozen=True)
class ExportPlace:
    """The folder in a store that a batch's export is written to; `prefix` is empty or ends in a slash.

    `is_own`: the folder is known to belong to this installation. Needed for records of earlier versions, which name no
    installation.
    """

    store: ObjectStore
    prefix: str
    batch: str
    installation: UUID
    is_own: bool = False


@dataclass
class Found:
    """The contents of an export folder: records and files of own exports, conflicting names, and other files."""

    own: dict[str, str] = field(default_factory=dict)
    """SHA-256 by file name."""
    recorded: list[str] = field(default_factory=list)
    """Names of all files listed in own records, including files whose upload was interrupted."""
    records: list[str] = field(default_factory=list)
    in_the_way: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def add_foreign(self, name: str, formats: Collection[str]) -> None:
        """Add a file that isn't ours: a data file of one of the `formats`, or one of an index, is in the way."""
        is_in_the_way = part_format(name) in formats or name in RECORDS or _OTHER_NAMES.fullmatch(name)
        (self.in_the_way if is_in_the_way else self.others).append(name)

    def take_changed(self) -> list[str]:
        """Return the names of files that own records list with other bytes; they are left in no other list."""
        changed = {*self.in_the_way, *self.others} & set(self.recorded)
        for names in (self.in_the_way, self.others):
            names[:] = [name for name in names if name not in changed]
        return sorted(changed)


def look(place: ExportPlace, formats: Collection[str] = (), known: Digests | None = None) -> Found:
    """List the folder and classify its contents; a data file of one of the `formats` that isn't ours is in the way.

    `known` are digests of files that the database says were written there.
    """
    found = Found()
    listed: dict[str, set[str]] = {name: set(digests) for name, digests in (known or {}).items()}
    for name in RECORDS:
        record = _record(place, name)
        if record is not None:
            found.records.append(name)
            for file in record["files"]:
                listed.setdefault(file["name"], set()).add(file["sha256"])
    listed = {name: digests for name, digests in listed.items() if is_key(name) and name not in RECORDS}
    found.recorded = list(listed)
    digests = {name: digest_if_there(place.store, place.prefix + name) for name in listed}
    found.own = {name: digest for name, digest in digests.items() if digest and digest in listed[name]}
    ours = {*found.own, *found.records}
    for name in place.store.names(place.prefix.rstrip("/")):
        short = name.removeprefix(place.prefix).rstrip("/")
        if short not in ours and not belongs_to_table(short):  # which goes with its table
            found.add_foreign(short, formats)
    return found


def has_record(place: ExportPlace, name: str) -> bool:
    """Whether there is a record file of this name, by this installation, that can be read."""
    return _record(place, name) is not None


def clear(place: ExportPlace, found: Found) -> None:
    """Delete the files of own exports, and the records last, so that an interrupted call can be repeated."""
    for name in [*found.own, *found.records]:
        place.store.delete(place.prefix + name)


def record_of(place: ExportPlace, files: Sequence[dict[str, Any]], **more: Any) -> bytes:
    """Return the content of a record file."""
    content = {"batch": place.batch, "installation": str(place.installation), **more, "files": list(files)}
    return json.dumps(content, indent=2).encode()


def _record(place: ExportPlace, name: str) -> dict[str, Any] | None:
    """Read a record file; None if there is none or it isn't from an export of this batch by this installation."""
    try:
        record = json.loads(place.store.get(place.prefix + name))
        files = [(file["name"], file["sha256"]) for file in record["files"]]
        whose = record.get("installation")
        is_ours = whose == str(place.installation) or (place.is_own and whose is None)
    except MissingObjectError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    is_text = all(isinstance(value, str) for file in files for value in file)
    is_of_batch = (
        place.is_own or record.get("batch") == place.batch
    )  # in its own folder it may have had another name
    return record if is_ours and is_text and is_of_batch else None
