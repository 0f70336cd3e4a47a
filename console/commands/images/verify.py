"""`nightmill verify`: where pictures come from, by their signed manifests, marks, digests and ISCC codes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.command_options import Json
from console.manifests.forecast_of_plan import installation
from console.provenance_lookup.database_index import DatabaseIndex
from console.provenance_lookup.export_index import ExportIndex
from console.provenance_lookup.image_index import ImageIndex
from console.provenance_lookup.list_pictures import Picture, pictures_in
from console.provenance_lookup.watermark_keys import keys_to_try
from console.terminal.output import note, print_json, print_table
from console.terminal.progress import counting
from jobs.errors import UsageError
from jobs.input_image_access import PictureRefusedError
from jobs.settings import Settings, load_settings
from jobs.signing_identity.find_identity_file import read_limited, trusted_authorities
from jobs.storage.open import S3Options
from models.errors import SigningIdentityError
from models.optional_packages import require

if TYPE_CHECKING:
    from console.provenance_lookup.trace_picture import PictureTracer

_AT_ONCE = 50
"""Files that are looked up together by their digests."""


def verify(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE|FOLDER|URI", help="PNG, JPEG and WebP pictures; s3://bucket/folder/"),
    ],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="earlier keys of marks, a NUMBER:SECRET a line"),
    ] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            "--trust", metavar="PEM", help="certificates of further authorities whose signatures count"
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            "--index", metavar="EXPORT", help="look rows up in an export here instead of the database"
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="don't search for marks of cropped, mirrored or turned pictures")
    ] = False,
    as_json: Json = False,
) -> None:
    """Where pictures come from, and which rows they are: exit code 0 all are ours, 1 some aren't, 2 can't tell."""
    require("worker", instead="pictures are verified where workers are installed")
    from console.provenance_lookup.trace_picture import PictureTracer  # noqa: PLC0415 - needs these packages
    from console.provenance_lookup.weigh_claims import Verdict  # noqa: PLC0415 - the same

    settings = load_settings()
    known = keys_to_try(settings, keys)
    trusted = trusted_authorities(settings) + b"".join(_certificates(path) for path in trust or ())
    pictures = pictures_in(files, S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region))
    with _index(settings, index) as rows, counting("reading", len(pictures), "pictures") as tell:
        tracer = PictureTracer(known, trusted, rows, searches=not quick)
        found: list[dict[str, Any]] = []
        for part in _traced(pictures, tracer):
            found += part
            tell(len(found))
    if as_json:
        print_json(found)
    else:
        columns = ("picture", "verdict", "by", "batch", "row", "what is known")
        print_table(columns, [_cells(each) for each in found])
    verdicts = [each["verdict"] for each in found]
    note(", ".join(f"{verdicts.count(verdict):,} {verdict}" for verdict in dict.fromkeys(verdicts)))
    unclear = {Verdict.UNREADABLE, Verdict.UNCLEAR, Verdict.SIMILAR} & set(verdicts)
    raise typer.Exit(2 if unclear else int(set(verdicts) != {Verdict.OURS}))


@contextmanager
def _index(settings: Settings, export: str | None) -> Iterator[ImageIndex | None]:
    """Open where rows are looked up: the export, or else the database; None if there is none."""
    if export is not None:
        if "://" in export:
            raise UsageError(
                f"--index {export}: an index is read from a folder or file here; copy the export first"
            )
        yield ExportIndex(Path(export))
        return
    with installation(settings, "told without a database") as engine:
        yield DatabaseIndex(engine) if engine is not None else None


def _traced(pictures: Sequence[Picture], tracer: "PictureTracer") -> Iterator[list[dict[str, Any]]]:
    for begin in range(0, len(pictures), _AT_ONCE):
        part = pictures[begin : begin + _AT_ONCE]
        yield tracer.by_files([{"file": picture.location} | _trace(picture, tracer) for picture in part])


def _trace(picture: Picture, tracer: "PictureTracer") -> dict[str, Any]:
    try:
        return tracer.trace(picture.read(), picture.location, picture.read_sidecar)
    except PictureRefusedError as error:
        nothing = dict.fromkeys(("sha256", "manifest", "mark", "digest", "iscc", "warning", "row"))
        return nothing | {"verdict": "unreadable", "why": str(error), "found_by": []}


def _certificates(path: Path) -> bytes:
    from models.provenance.signing_identity import check_authorities  # noqa: PLC0415 - needs these packages

    body = read_limited(path, f"--trust {path}")
    try:
        check_authorities(body)
    except SigningIdentityError as error:
        raise UsageError(f"--trust {path}: {error}") from None
    return b"\n" + body


def _stranger(manifest: Mapping[str, Any] | None) -> str | None:
    """Return who has signed a picture, if that is nobody who is trusted."""
    is_strange = manifest is not None and manifest["state"] == "valid"
    return f"signed by {manifest['signer']}, who isn't trusted" if manifest and is_strange else None


def _cells(found: Mapping[str, Any]) -> tuple[object, ...]:
    row, mark = found["row"] or {}, found.get("mark")
    whose = f"installation {mark['installation']}, job {mark['job']}" if mark and not row else ""
    told = (
        whose,
        _stranger(found.get("manifest")),
        found.get("warning"),
        found["why"],
        (row.get("prompt") or "")[:60],
    )
    place = f"{row['ordinal']}, image {row['index']}" if row else ""
    return (
        found["file"],
        found["verdict"],
        ", ".join(found["found_by"]),
        row.get("name"),
        place,
        "; ".join(filter(None, told)),
    )
