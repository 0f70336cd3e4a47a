"""`nightmill verify`: whether pictures bear a mark of nightmill, and which job they are of."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from sqlalchemy import Engine

from console.command_options import Json
from console.manifests.forecast_of_plan import installation
from console.terminal.output import note, plural, print_json, print_table
from console.terminal.progress import counting
from jobs.db.installation_id import this_installation
from jobs.errors import UsageError
from jobs.images.decode_picture import decode_picture, flattened
from jobs.images.find_image_row_of_mark import image_of_mark
from jobs.input_image_access import PictureRefusedError, read_picture
from jobs.setting_values.watermark_key import PUBLIC, MarkKey
from jobs.settings import Settings, load_settings
from models.optional_packages import require

if TYPE_CHECKING:
    from models.watermark.tiled.payload import Payload

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
LONGEST_FILE = 1 << 20
OURS, OTHERS, MARKED = "ours", "of another installation", "marked"
NONE, UNREADABLE = "no tiled mark", "unreadable"
"""What can be said of a picture. It is just `marked` where no database is at hand that tells whose the mark is."""


def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER", help="PNG, JPEG and WebP pictures")],
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help="earlier keys, a NUMBER:SECRET a line")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="don't search for marks of cropped, mirrored or turned pictures")
    ] = False,
    as_json: Json = False,
) -> None:
    """Whether pictures bear a tiled mark, and of which job: exit code 0 all are ours, 1 some aren't, 2 can't tell."""
    require("worker", instead="marks are read where workers are installed")
    settings = load_settings()
    known, pictures = _keys(settings, keys), list(_pictures(files))
    if not pictures:
        raise UsageError(f"no {', '.join(SUFFIXES)} in {', '.join(map(str, files))}")
    with (
        installation(settings, "told without a database") as engine,
        counting("reading", len(pictures), "pictures") as tell,
    ):
        ours = _installations(engine)
        found = []
        for number, path in enumerate(pictures, start=1):
            found.append(_verified(path, known, ours, engine, searches=not quick))
            tell(number)
    if as_json:
        print_json(found)
    else:
        print_table(("picture", "verdict", "batch", "row", "what is known"), [_cells(each) for each in found])
    verdicts = [each["verdict"] for each in found]
    note(", ".join(f"{verdicts.count(verdict):,} {verdict}" for verdict in dict.fromkeys(verdicts)))
    raise typer.Exit(2 if {UNREADABLE, MARKED} & set(verdicts) else int(set(verdicts) != {OURS}))


def _keys(settings: Settings, file: Path | None) -> dict[int, bytes]:
    """Return all keys to try, by number: the one of the settings, earlier ones, and the public one."""
    given = [PUBLIC]
    if settings.watermark_key is not None:
        given.append(MarkKey.parse(settings.watermark_key.get_secret_value()))
    given += _of_file(file) if file is not None else []
    known: dict[int, bytes] = {}
    for key in given:
        if known.setdefault(key.number, key.secret) != key.secret:
            raise UsageError(
                f"there are two keys with the number {key.number}: verify with one after the other"
            )
    return known


def _of_file(file: Path) -> list[MarkKey]:
    """Return the keys of a file's lines, without blank ones and those that begin with a number sign."""
    try:
        if file.stat().st_size > LONGEST_FILE:
            raise UsageError(f"--keys {file}: is longer than {LONGEST_FILE:,} bytes")
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--keys {file}: {getattr(error, 'strerror', None) or 'no UTF-8 text'}") from None
    numbered = enumerate(map(str.strip, lines), start=1)
    return [_key(f"{file}, line {number}", line) for number, line in numbered if line and line[0] != "#"]


def _key(place: str, line: str) -> MarkKey:
    try:
        return MarkKey.parse(line)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None


def _pictures(given: Sequence[Path]) -> Iterator[Path]:
    """Yield the files named, and the pictures in folders, without following links there; tells what it leaves out."""
    left = 0
    for path in given:
        if str(path).startswith("s3:"):
            raise UsageError(f"{path}: only local files are read")
        if not path.is_dir():
            yield path.absolute()
            continue
        for folder, _, names in os.walk(path.absolute()):
            for inside in (Path(folder) / name for name in sorted(names)):
                if inside.name.lower().endswith(SUFFIXES) and not inside.is_symlink():
                    yield inside
                else:
                    left += 1
    if left:
        note(
            f"{plural(left, 'file')} in folders not looked at: links, and names without {', '.join(SUFFIXES)}"
        )


def _installations(engine: Engine | None) -> set[int]:
    from models.watermark.tiled.payload import installation_number  # noqa: PLC0415 - needs the worker's packages

    if engine is None:
        return set()
    here = this_installation(engine)
    return {installation_number(each) for each in (here.id, *here.earlier)}


def _verified(
    path: Path, keys: Mapping[int, bytes], ours: set[int], engine: Engine | None, *, searches: bool
) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415 - the same

    from models.watermark.tiled.identify_mark import identify  # noqa: PLC0415

    said: dict[str, Any] = {"file": str(path), "verdict": UNREADABLE, "why": None, "mark": None, "row": None}
    try:
        pixels = np.asarray(flattened(decode_picture(read_picture(str(path), ()), str(path))))
    except PictureRefusedError as error:
        return said | {"why": str(error)}
    mark = identify(pixels, keys, searches=searches)
    if mark is None:
        return said | {"verdict": NONE, "why": None if searches else "not searched for: --quick"}
    payload = mark.payload
    told = {
        "payload": payload.hex,
        "key": payload.key_id,
        "installation": payload.installation,
        "job": payload.job,
        "pilot": round(mark.pilot, 1),
        "was_searched_for": mark.place is not None,
    }
    return said | {"mark": told} | _attributed(payload, ours, engine)


def _attributed(payload: "Payload", ours: set[int], engine: Engine | None) -> dict[str, Any]:
    """Return the verdict on what a mark says, with the image's row if it is ours."""
    if engine is None:
        return {"verdict": MARKED, "why": "no database here tells whose it is"}
    if payload.installation not in ours:
        return {"verdict": OTHERS}
    row = image_of_mark(engine, payload.job, payload.hex)
    if row is None:
        return {"verdict": OURS, "why": "its row is gone"}
    why = "the row is of a copy: that of the job is gone" if row["job"] != payload.job else None
    return {"verdict": OURS, "row": row, "why": why}


def _cells(found: Mapping[str, Any]) -> tuple[object, ...]:
    row, mark = found["row"] or {}, found["mark"]
    whose = f"installation {mark['installation']}, job {mark['job']}" if mark and not row else ""
    what = "; ".join(filter(None, (whose, found["why"], (row.get("prompt") or "")[:60])))
    place = f"{row['ordinal']}, image {row['index']}" if row else ""
    return found["file"], found["verdict"], row.get("name"), place, what
