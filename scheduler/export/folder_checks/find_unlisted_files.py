"""Finds files in an export's folder that `_SUCCESS` doesn't list, and that readers would take for a part of it."""

import re
from collections.abc import Iterable, Mapping, Sequence

from jobs.outputs.export_inventory import is_in_folder_of_images, is_named_like_export
from jobs.storage.key_layout import export_folder
from scheduler.export.dataset_metadata.checksums import NAME as CHECKSUMS
from scheduler.export.folder_checks.list_export_folder import ListedFolder

_READ = {
    "parquet": r"([^./][^/]*/)*[^./][^/]*(\.parquet|/)",
    "jsonl": r"[^./][^/]*\.jsonl|part-[^/]*",
    "csv": r"[^./][^/]*\.csv|part-[^/]*",
    "webdataset": r"[^./][^/]*\.(tar|parquet)",
    "hf": r"data/[^./][^/]*\.parquet",
}
"""What the patterns of readers, which the documentation and the card name, match in the folder of an export.

Readers of tables (Iceberg, Lance) take what the table's metadata names, and nothing else.
"""
_OF_SPLIT = (
    r"([^./][^/]*/)*([^./][^/]*\.(avif|bmp|gif|jpe?g|jxl|png|tiff?|webp)|metadata\.(csv|jsonl|parquet))"
)
_ROWS_OF_SPLIT = re.compile(r"([A-Za-z0-9_]+)/[0-9]{5,}/metadata\.parquet")


def find_unlisted_files(
    folder: ListedFolder, dataset: str, format: str, listed: Mapping[str, str]
) -> list[str]:
    """Return names that `listed`, SHA-256 by name, lacks: of files, and in `SHA256SUMS`, there also with other digests.

    A file is told if its name is one that exports give, or if readers of the format take it; in the folder that a
    batch has for its exports, only by its name: exports there, too, ignore whatever else there is. Links are among the
    files, as readers follow them; one to a folder ends in a slash, and readers of Parquet look into it.
    """
    is_own = folder.uri.endswith(f"/{export_folder(dataset, format)}".rstrip("/"))
    read = [] if is_own else _patterns(format, listed)
    found = {name for name in folder.names - listed.keys() if _is_named(name, format) or _matches(name, read)}
    for name in listed:
        if name.lstrip("_") == CHECKSUMS and name in folder.names:
            with folder.reading(name):
                found |= _wrong_sums(folder.get(name), listed)
    return sorted(found)


def _is_named(name: str, format: str) -> bool:
    return is_named_like_export(name) or (format == "hf" and is_in_folder_of_images(name))


def _patterns(format: str, listed: Iterable[str]) -> list[str]:
    """Return regular expressions of what readers of the format take."""
    found = [_READ[format]] if format in _READ else []
    if format == "hf":
        splits = {match[1] for name in listed if (match := _ROWS_OF_SPLIT.fullmatch(name))}
        found += [rf"{split}/{_OF_SPLIT}" for split in sorted(splits)]
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in patterns)


def _wrong_sums(checksums: bytes, listed: Mapping[str, str]) -> set[str]:
    """Return the names that `SHA256SUMS` has with another digest than `_SUCCESS`, which may list none."""
    lines = checksums.decode("utf-8", "replace").splitlines()
    sums = {of: sha256 for sha256, _, of in (line.partition("  ") for line in lines)}
    return {of for of, sha256 in sums.items() if listed.get(of) != sha256}
