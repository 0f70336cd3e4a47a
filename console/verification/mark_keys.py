"""The keys of tiled marks that `nightmill verify` tries."""

from pathlib import Path

from jobs.errors import UsageError
from jobs.setting_values.watermark_key import PUBLIC, MarkKey
from jobs.settings import Settings

LONGEST_FILE = 1 << 20


def keys_to_try(settings: Settings, file: Path | None) -> dict[int, bytes]:
    """Return all keys, by number: the one of the settings, earlier ones of a file, and the public one."""
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
