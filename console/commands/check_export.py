"""`nightmill exports check`: are an export's files and time stamps as `_SUCCESS` says."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from console.command_options import Json
from console.terminal.output import note, plural, print_json, print_table
from console.terminal.progress import counting
from jobs.settings import load_settings
from jobs.storage.open import S3Options, open_store
from models.optional_packages import require
from scheduler.export.check_export_folder import CheckedFiles, StampState, check_export_folder
from scheduler.export.rfc3161_time_stamps.load_trusted_certificates import read_certificates

MOST_NAMED = 5
_RIGHT = "all files and time stamps are right"
_UNSTAMPED = "all files are as they are listed; no shard has a time stamp"
_UNFINISHED = "the export isn't finished: only shards that are sealed were checked"


def check_export(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER|URI", help="with `_SUCCESS`; s3://bucket/folder, too")
    ],
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            "--trust",
            metavar="PEM",
            help="certificates of time-stamping authorities; default: NIGHTMILL_TIMESTAMP_TRUST",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare an export's files with `_SUCCESS`, and check its time stamps, without a database or a connection.

    Exit code 0 all is as it was stamped, 1 something isn't or has no time stamp, 2 there are time stamps and no
    certificates to trust.
    """
    settings = load_settings()
    s3 = S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
    if trust or settings.timestamp_trust is not None:
        require("timestamps")
    store = open_store(folder, s3)
    trusted = [each for path in trust or () for each in read_certificates(path, f"--trust {path}")]
    if trust is None and settings.timestamp_trust is not None:
        trusted = read_certificates(settings.timestamp_trust)
    with counting("checking", things="files") as tell:
        files = 0

        def on_file() -> None:
            nonlocal files
            files += 1
            tell(files)

        found = list(check_export_folder(store, "", trusted, on_file))
    if as_json:
        print_json([_checked(each) for each in found])
    else:
        columns = ("shard", "files", "problem", "time stamp", "time", "authority")
        print_table(columns, [_cells_of_check(each) for each in found])
    raise typer.Exit(_exit_code(found, is_trusting=bool(trusted)))


def _checked(found: CheckedFiles) -> dict[str, Any]:
    told = asdict(found)
    sealed, finished, stamped_at = (told.pop(name) for name in ("is_sealed", "is_finished", "stamped_at"))
    first = {"sealed": sealed, "finished": finished, "stamped_at": stamped_at and stamped_at.isoformat()}
    return first | told


def _cells_of_check(found: CheckedFiles) -> tuple[object, ...]:
    problems = [f"missing: {name}" for name in found.missing] + [f"changed: {name}" for name in found.changed]
    problems += found.unreadable.values()
    problems += [f"not listed: {name}" for name in found.unlisted]
    problems += [f"of no shard: {name}" for name in found.of_no_shard]
    more = len(problems) - MOST_NAMED
    told = [*problems[:MOST_NAMED], *([f"and {more:,} more"] if more > 0 else [])]
    if found.numbering is not None:
        told.append(found.numbering)
    if not found.is_finished:
        told.append("not checked: the export isn't finished")
    if found.problem is not None:
        told.append(f"time stamp: {found.problem}")
    number = "other files" if found.number is None else found.number
    stamp = "" if found.number is None else found.stamp.value if found.is_sealed else "not sealed yet"
    when = found.stamped_at and found.stamped_at.isoformat(timespec="seconds")
    return number, f"{found.files:,}", "; ".join(told), stamp, when or "", found.authority or ""


def _exit_code(found: Sequence[CheckedFiles], *, is_trusting: bool) -> int:
    """Say what is amiss, and return the exit code."""
    is_stamped = any(each.stamp is not StampState.NONE for each in found)
    is_asked = is_trusting or is_stamped
    faults = [*_faults_of_files(found), *(_faults_of_stamps(found) if is_asked else [])]
    strange = sum(each.stamp is StampState.VALID for each in found)
    told = [f"{plural(strange, 'time stamp')} by an authority that isn't trusted"] if strange else []
    if strange and not is_trusting:
        note("nothing says which authorities are trusted: name their certificates by --trust")
    if not all(each.is_finished for each in found):
        note(_UNFINISHED)
    note("; ".join([*faults, *told]) or (_RIGHT if is_stamped else _UNSTAMPED))
    if faults or (strange and is_trusting):
        return 1
    return 2 if strange else 0


def _faults_of_files(found: Sequence[CheckedFiles]) -> list[str]:
    damaged = sum(len(each.missing) + len(each.changed) for each in found)
    unreadable = len({name for each in found for name in each.unreadable})
    unlisted = sum(len(each.unlisted) for each in found)
    return _told(
        (damaged, "file", "missing or changed"),
        (unreadable, "path", "that can't be read"),
        (unlisted, "file", "that `_SUCCESS` doesn't list"),
    )


def _faults_of_stamps(found: Sequence[CheckedFiles]) -> list[str]:
    """Say what keeps time stamps from being those of the whole export."""
    told = _told(
        (sum(each.stamp is StampState.INVALID for each in found), "time stamp", "invalid"),
        (sum(each.lacks_stamp for each in found), "sealed shard", "without a time stamp"),
        (sum(each.lacks_seal for each in found), "shard", "not sealed"),
        (sum(len(each.of_no_shard) for each in found), "file", "of no shard"),
        (sum(not each.is_finished for each in found), "export", "not finished"),
    )
    return [*told, *(each.numbering for each in found if each.numbering is not None)]


def _told(*counted: tuple[int, str, str]) -> list[str]:
    return [f"{plural(count, thing)} {text}" for count, thing, text in counted if count]
