"""Checks an export by its files alone: those that `_SUCCESS` lists, its table's metadata, and its shards' time stamps.

A stamp is of one shard's files. That every file with data is in such a shard has to be checked besides: else whoever
forges a file takes it out of its shard.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from jobs.errors import UsageError
from jobs.exports.shard_rfc3161_time_stamps import stamped_digest
from jobs.outputs.export_inventory import RECORDS, SUCCESS, is_about_dataset
from jobs.storage.base import MissingObjectError, ObjectStore, digest_if_there, is_key, note_unreadable
from models.optional_packages import require
from scheduler.export.folder_checks.find_missing_lance_and_iceberg_metadata import (
    TableReport,
    find_missing_table_metadata,
)
from scheduler.export.folder_checks.find_unlisted_files import find_unlisted_files
from scheduler.export.folder_checks.list_export_folder import ListedFolder
from scheduler.export.rfc3161_time_stamps.errors import TimeStampError, UntrustedAuthorityError

if TYPE_CHECKING:
    from cryptography import x509


class StampState(StrEnum):
    """What a shard's time stamp is worth. `VALID`: as somebody made it who isn't trusted, or nobody is."""

    TRUSTED = "trusted"
    VALID = "valid"
    INVALID = "invalid"
    NONE = "none"


class _File(BaseModel):
    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Shard(BaseModel):
    number: int
    version: int = 0
    sealed: bool
    files: list[str]
    timestamp: dict[str, Any] | None = None


class _Record(BaseModel):
    batch: str = ""
    format: str = ""
    files: list[_File]
    shards: list[_Shard] = []
    table: TableReport = TableReport()


@dataclass
class CheckedFiles:
    """A shard's files, or those of the dataset as a whole (`number` is None), and what was found."""

    number: int | None
    version: int | None = None
    is_sealed: bool = False
    files: int = 0
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why, by the names of files and folders: links, and what may not be read."""
    unlisted: list[str] = field(default_factory=list)
    """Files that `find_unlisted_files` finds, and lines of `SHA256SUMS`, that the record doesn't have."""
    stamp: StampState = StampState.NONE
    stamped_at: datetime | None = None
    authority: str | None = None
    problem: str | None = None
    """What is wrong with the time stamp."""
    of_no_shard: list[str] = field(default_factory=list)
    """Files that may hold data and that no shard lists, so that no time stamp is of them."""
    numbering: str | None = None
    """What is wrong with the numbers of the shards, which are those from 0 on."""
    is_finished: bool = True
    """Whether there is `_SUCCESS`. In `_INCOMPLETE` are the shards that are sealed so far."""

    @property
    def lacks_seal(self) -> bool:
        """Whether it is a shard that isn't sealed: its rows may change, and it gets no time stamp yet."""
        return self.number is not None and not self.is_sealed

    @property
    def lacks_stamp(self) -> bool:
        """Whether the shard is sealed, has files and no time stamp."""
        return self.is_sealed and bool(self.files) and self.stamp is StampState.NONE


def check_export_folder(
    store: ObjectStore,
    prefix: str,
    trusted: "Sequence[x509.Certificate]",
    on_file: Callable[[], object] = lambda: None,
) -> Iterator[CheckedFiles]:
    """Check each shard of the export in a folder, and then what is of no shard; that only if it is finished.

    `prefix` is empty or ends in a slash. Every file is read; `on_file` is called for each. `of_no_shard` and
    `numbering` are looked for if authorities are trusted or a shard has a time stamp. Raises UsageError if there is no
    export, or its record can't be read; MissingPackagesError where a shard has a time stamp and the extra `timestamps`
    isn't installed; StoreUnavailableError or StoreDeniedError if the store answers nothing more.
    """
    name, record = _read(store, prefix)
    listed = {file.name: file for file in record.files}

    @cache  # copies of images may be of several shards
    def digest(file: str) -> str | None:
        on_file()
        return digest_if_there(store, prefix + file) if is_key(file) else None

    for shard in record.shards:
        found = _of_files(
            [listed.get(file) or _File.model_construct(name=file, sha256="") for file in shard.files], digest
        )
        found.number, found.version, found.is_sealed = shard.number, shard.version, shard.sealed
        if shard.timestamp is not None:
            sha256 = stamped_digest([listed[file].model_dump() for file in shard.files if file in listed])
            _check_stamp(found, shard.timestamp, sha256, trusted)
        yield found
    if name != SUCCESS:  # that one also lists files that an earlier export has left
        yield CheckedFiles(None, is_finished=False)
        return
    of_shards = {file for shard in record.shards for file in shard.files}
    rest = [file for file in record.files if file.name not in of_shards]
    others = _of_files(rest, digest)
    sums = {file.name: file.sha256 for file in record.files}
    folder = ListedFolder.of(store, prefix, others.unreadable)
    others.unlisted = find_unlisted_files(folder, record.batch, record.format, sums)
    others.missing += find_missing_table_metadata(folder, record.format, record.table)
    if trusted or any(shard.timestamp is not None for shard in record.shards):
        others.of_no_shard = [file.name for file in rest if not is_about_dataset(file.name)]
        others.numbering = _numbering([shard.number for shard in record.shards])
    yield others


def _read(store: ObjectStore, prefix: str) -> tuple[str, _Record]:
    for name in RECORDS:
        try:
            return name, _Record.model_validate_json(store.get(prefix + name))
        except MissingObjectError:
            continue
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            why = f"{where}: {first['msg']}" if where else first["msg"]
            raise UsageError(f"{store.locate(prefix + name)} isn't the record of an export: {why}") from None
    raise UsageError(f"{store.locate(prefix + SUCCESS)} isn't there: name the folder of an export")


def _numbering(numbers: Sequence[int]) -> str | None:
    """Say what is wrong with the numbers of an export's shards."""
    if not numbers:
        return "no shard is listed"
    for wanted, number in enumerate(sorted(numbers)):
        if number > wanted:
            return f"shard {wanted} isn't listed"
        if number < wanted:
            return f"shard {number} is listed twice"
    return None


def _of_files(files: Sequence[_File], digest: Callable[[str], str | None]) -> CheckedFiles:
    found = CheckedFiles(None, files=len(files))
    for file in files:
        with note_unreadable(found.unreadable, file.name):
            there = digest(file.name)
            if there is None:
                found.missing.append(file.name)
            elif there != file.sha256:
                found.changed.append(file.name)
    return found


def _check_stamp(
    found: CheckedFiles, stamp: dict[str, Any], sha256: str, trusted: "Sequence[x509.Certificate]"
) -> None:
    require("timestamps")
    from scheduler.export.rfc3161_time_stamps.request_and_verify_token import check_response  # noqa: PLC0415 - needs an extra

    check = partial(check_response, sha256=sha256)
    try:
        response = base64.b64decode(str(stamp.get("response")), validate=True)
        try:
            checked = check(response, trusted=trusted)
            found.stamp = StampState.TRUSTED if trusted else StampState.VALID
        except UntrustedAuthorityError as error:
            checked, found.stamp, found.problem = check(response), StampState.VALID, str(error)
    except (TimeStampError, binascii.Error) as error:
        found.stamp, found.problem = StampState.INVALID, str(error)
    else:
        found.stamped_at, found.authority = checked.time, checked.authority
