"""The records of any manifest: read from a file, or made by a recipe."""

from collections.abc import Mapping

from jobs.manifest.formats.dispatch import read_file_records
from jobs.manifest.line_counts import LineCounts
from jobs.manifest.record import Records
from jobs.manifest.types import ManifestFile


def read_records(
    manifest: ManifestFile, renames: Mapping[str, str], counts: LineCounts | None = None
) -> Records:
    """The records of a manifest in order; raises ManifestError for a file that can't be read (on).

    What the lines of a file were is added to `counts`.
    """
    if manifest.recipe is None:
        return read_file_records(manifest, renames, counts)
    from jobs.manifest.recipe.expand import read_recipe  # noqa: PLC0415 - YAML is for recipes only
    from jobs.manifest.recipe.recipe import Recipe  # noqa: PLC0415

    assert isinstance(manifest.recipe, Recipe)
    return read_recipe(manifest.recipe, renames)
