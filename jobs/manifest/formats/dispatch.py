"""Select the reader of a manifest's format; all formats except recipes give one stream of records."""

from collections.abc import Mapping
from typing import assert_never

from jobs.manifest.formats.csv_tables import read_table
from jobs.manifest.formats.json_documents import read_json
from jobs.manifest.formats.json_lines import read_jsonl
from jobs.manifest.formats.text_and_a1111_prompts import read_text
from jobs.manifest.raw_record import Records
from jobs.manifest.read_statistics import LineCounts
from jobs.manifest.reading.decompressed_lines import Lines, read_chunks
from jobs.manifest.reading.line_ends import with_lf, with_lf_if_none
from jobs.manifest.types import ManifestFile


def read_file_records(
    manifest: ManifestFile, renames: Mapping[str, str], counts: LineCounts | None = None
) -> Records:
    """Read the records of a manifest other than a recipe, in order, adding the line counts to `counts`.

    Raises ManifestError if the file can't be read, also in the middle.
    """
    counts = counts or LineCounts()
    if manifest.format == "parquet":
        from jobs.manifest.formats.parquet import read_parquet  # noqa: PLC0415 - pyarrow takes long to import

        return read_parquet(manifest, renames, counts)
    if manifest.format == "recipe":
        raise ValueError("a recipe's rows are made by jobs.manifest.records_of_file_or_recipe")
    label = manifest.label
    chunks = read_chunks(manifest.path, manifest.compression, label, manifest.limit)
    match manifest.format:
        case "json":
            return read_json(with_lf(chunks), label, renames, counts)
        case "jsonl":
            return read_jsonl(Lines(with_lf(chunks), label), renames, counts)
        case "txt":
            return read_text(Lines(with_lf(chunks), label), renames.get("prompt", "prompt"), label, counts)
        case "csv" | "tsv":
            lines = Lines(with_lf_if_none(chunks), label)
            default = "," if manifest.format == "csv" else "\t"
            return read_table(lines, default, manifest.delimiter, label, renames, counts)
    assert_never(manifest.format)
