"""The keys of tiled marks that `nightmill verify` tries."""

from pathlib import Path

from jobs.errors import UsageError
from jobs.setting_values.watermark_key import PUBLIC, MarkKey
from jobs.settings import Settings
from models.catalogue.limited_files import read_text, why_unreadable


def keys_to_try(settings: Settings, file: Path | None) -> dict[int, bytes]:
    """Return all keys, by number: the one of the settings, earlier ones of a file, and the public one."""
    given = [PUBLIC, settings.mark_key, *(_of_file(file) if file is not None else [])]
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
        lines = read_text(file).removeprefix("\ufeff").split("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"--keys {file}: {why_unreadable(error)}") from None
    numbered = enumerate(map(str.strip, lines), start=1)
    return [_key(f"{file}, line {number}", line) for number, line in numbered if line and line[0] != "#"]


def _key(place: str, line: str) -> MarkKey:
    try:
        return MarkKey.parse(line)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None
