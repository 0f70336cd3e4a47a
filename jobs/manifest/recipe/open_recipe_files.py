"""Open a recipe together with the files that it names, identified by one common digest."""

import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from jobs.errors import ManifestError
from jobs.manifest.reading.decompressed_lines import read_chunks
from jobs.manifest.recipe.parse import parse_recipe
from jobs.manifest.types import OUTSIDE, Format, ManifestFile
from jobs.manifest.values import printable

MAX_BYTES = 2**20

Open = Callable[[str, Format | None, Sequence[str]], AbstractContextManager[ManifestFile]]


@contextmanager
def with_recipe(
    manifest: ManifestFile, open_source: Open, prompt_header: str, roots: Sequence[str]
) -> Iterator[ManifestFile]:
    """Yield `manifest` with its parsed recipe, valid inside the block.

    `open_source(location, format, within)` opens the files named by the recipe, relative to it: they must be below its
    folder or one of `roots`. The digest covers the recipe and all files, so that a changed file makes a different
    manifest. Raises ManifestError.
    """
    files: list[ManifestFile] = []
    within = (manifest.folder, *roots)
    with ExitStack() as stack:

        def open_file(name: str, format: Format | None) -> ManifestFile:
            file = stack.enter_context(open_source(_located(name, within), format, within))
            files.append(replace(file, label=printable(name, 1000)))
            return files[-1]

        recipe = parse_recipe(_text(manifest), manifest.label, open_file, prompt_header)
        yield replace(manifest, recipe=recipe, sha256=_digest(manifest, files))


def _located(name: str, within: Sequence[str]) -> str:
    """Return the path or URI of `name`, relative to the first of `within`; local paths are checked when opened."""
    folder = within[0]
    if "://" not in name and "://" not in folder:
        return str(Path(folder, name))
    scheme, _, rest = (name if "://" in name else f"{folder}/{name}").partition("://")
    place = f"{scheme}://{posixpath.normpath(rest)}"
    if not any(place.startswith(root.rstrip("/") + "/") for root in within if "://" in root):
        raise ManifestError(f"{printable(name, 1000)}: {OUTSIDE}.")
    return place


def _text(manifest: ManifestFile) -> str:
    body = b""
    for chunk in read_chunks(manifest.path, manifest.compression, manifest.label, manifest.limit):
        body += chunk
        if len(body) > MAX_BYTES:
            raise ManifestError(f"{manifest.label}: is over {MAX_BYTES:,} bytes; put long lists into files.")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{manifest.label}, line {line}: is not valid UTF-8; save it as UTF-8.") from None


def _digest(manifest: ManifestFile, files: list[ManifestFile]) -> str:
    if not files:
        return manifest.sha256
    return sha256("\n".join([manifest.sha256, *(file.sha256 for file in files)]).encode()).hexdigest()
