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
_UNSTAMPED = "all files are as `_SUCCESS` lists them; no shard has a time stamp"


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

    Exit code 0 all is as it was stamped, 1 something isn't, 2 there are time stamps and no certificates to trust.
    """
    settings = load_settings()
    s3 = S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
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
    sealed, stamped_at = told.pop("is_sealed"), told.pop("stamped_at")
    return {"sealed": sealed, "stamped_at": stamped_at and stamped_at.isoformat()} | told


def _cells_of_check(found: CheckedFiles) -> tuple[object, ...]:
    problems = [f"missing: {name}" for name in found.missing] + [f"changed: {name}" for name in found.changed]
    problems += [f"not listed: {name}" for name in found.unlisted]
    more = len(problems) - MOST_NAMED
    told = [*problems[:MOST_NAMED], *([f"and {more:,} more"] if more > 0 else [])]
    if found.problem is not None:
        told.append(f"time stamp: {found.problem}")
    number = "other files" if found.number is None else found.number
    stamp = "" if found.number is None else found.stamp.value if found.is_sealed else "not sealed yet"
    when = found.stamped_at and found.stamped_at.isoformat(timespec="seconds")
    return number, f"{found.files:,}", "; ".join(told), stamp, when or "", found.authority or ""


def _exit_code(found: Sequence[CheckedFiles], *, is_trusting: bool) -> int:
    """Say what is amiss, and return the exit code."""
    damaged = sum(len(each.missing) + len(each.changed) for each in found)
    unlisted = sum(len(each.unlisted) for each in found)
    stamps = [each.stamp for each in found]
    invalid, strange = stamps.count(StampState.INVALID), stamps.count(StampState.VALID)
    is_stamped = any(stamp is not StampState.NONE for stamp in stamps)
    lacking = sum(each.lacks_stamp for each in found) if is_trusting or is_stamped else 0
    told = [
        f"{plural(damaged, 'file')} missing or changed" if damaged else "",
        f"{plural(unlisted, 'file')} that `_SUCCESS` doesn't list" if unlisted else "",
        f"{plural(invalid, 'time stamp')} invalid" if invalid else "",
        f"{plural(strange, 'time stamp')} by an authority that isn't trusted" if strange else "",
        f"{plural(lacking, 'sealed shard')} without a time stamp" if lacking else "",
    ]
    if not is_trusting and strange:
        note("nothing says which authorities are trusted: name their certificates by --trust")
    note(
        "; ".join(filter(None, told)) or ("all files and time stamps are right" if is_stamped else _UNSTAMPED)
    )
    if damaged or unlisted or invalid or lacking or (strange and is_trusting):
        return 1
    return 2 if strange else 0
