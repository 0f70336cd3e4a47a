"""The keys that nightmill writes below an output: a batch's images, those in quarantine, its export, its contact sheet.

Objects with other keys don't belong to nightmill and are never deleted.
"""

import re
from dataclasses import dataclass
from hashlib import sha256 as sha256_of

from jobs.states import ImageFormat
from jobs.storage.hive_folder_names import FOLDERS

CONTACT_SHEET = "contact-sheet.png"
EXPORT = "export"
IMAGES = "images"
QUARANTINE = "quarantine"

SIDECAR = "c2pa"
"""Extension of a manifest that is kept beside an image, under the image's name, as the C2PA specification says."""
_EXTENSION = f"(?:{'|'.join([*(format.extension for format in ImageFormat), SIDECAR])})"
_NAME = rf"([0-9]{{1,18}})-([0-9]{{1,9}})\.([0-9a-f]{{12}})\.{_EXTENSION}"
_NUMBERED = rf"([0-9]+)/{_NAME}"
_IMAGE = re.compile(rf"([^/]+)/{IMAGES}/{_NUMBERED}")
_QUARANTINED = re.compile(rf"([^/]+)/{QUARANTINE}/{_NUMBERED}")
_PART = re.compile(r"part-[0-9]{5,}\.([a-z0-9]{1,16})")
_FOLDER = re.compile(r"[^/]+(/(images|quarantine)(/[0-9]+)?|/export(-[a-z0-9]+)?(/.+)?)?")
TABLE_METADATA_FOLDERS = ("metadata/", "_versions/", "_transactions/")
_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TABLE_METADATA = re.compile(
    rf"metadata/([0-9]{{5,}}-{_UUID}\.metadata\.json|snap-[0-9]+-[0-9]+-{_UUID}\.avro|{_UUID}-m[0-9]+\.avro)"
    rf"|_versions/([0-9]+\.manifest|latest_version_hint\.json)|_transactions/[0-9]+-{_UUID}\.txn"
)
PARTITIONED = rf"{FOLDERS}[0-9]{{5,}}\.parquet"
"""A regular expression of the files of a partitioned export, in its folder."""
_EXPORTED = re.compile(
    rf"[^/]+/(export/(([^/]+/)*part-[0-9]{{5,}}\.[a-z0-9]{{1,16}}|{PARTITIONED})|export-[a-z0-9]+/.+)"
)
DEFAULT_FORMAT = "parquet"
IMAGE_COPY = rf"_images/[0-9a-f]{{2}}/[0-9a-f]{{64}}(-[0-9a-f]{{12}})?\.{_EXTENSION}"
"""A regular expression of copies of images and their sidecars in the folder of an export (`copy_name`)."""


@dataclass(frozen=True)
class ImageKey:
    """The parts of an image's or its sidecar's key: batch, row, index, and 12 hex digits of the files' digest."""

    batch: str
    ordinal: int
    index: int
    digest: str


def image_key(
    batch: str, ordinal: int, index: int, sha256: str, extension: str, sidecar_sha256: str | None = None
) -> str:
    """Return `<batch>/images/<shard>/<ordinal>-<index>.<digest>.<ext>`; keys sort in manifest order.

    The digest has 12 digits of the file's SHA-256. Where a sidecar is kept beside it, they are of both digests: the
    same picture, rendered twice, has another manifest each time, and no file that a row names may be overwritten.
    """
    digest = digest_in_key(sha256, sidecar_sha256)
    return f"{batch}/images/{ordinal // 1000:06d}/{ordinal:09d}-{index:05d}.{digest}.{extension}"


def digest_in_key(sha256: str, sidecar_sha256: str | None) -> str:
    """Return the 12 digits in an image's key."""
    digest = sha256 if sidecar_sha256 is None else sha256_of((sha256 + sidecar_sha256).encode()).hexdigest()
    return digest[:12]


def digest_in_key_sql(row: str) -> str:
    """Return the SQL of `digest_in_key`, by the columns of the image's row."""
    both = f"{row}.sha256 || {row}.c2pa_sidecar_sha256"
    of_both = f"encode(sha256(convert_to({both}, 'UTF8')), 'hex')"
    return f"left(CASE WHEN {row}.c2pa_sidecar_sha256 IS NULL THEN {row}.sha256 ELSE {of_both} END, 12)"


def sidecar_key(image_key: str) -> str:
    """Return the key of the manifest beside an image, in quarantine or not; so, too, of a copy's name in an export."""
    return f"{without_extension(image_key)}.{SIDECAR}"


def without_extension(key: str) -> str:
    """Return what the keys of an image and of its sidecar have in common."""
    return key.rpartition(".")[0]


def without_extension_sql(key: str) -> str:
    """Return the SQL of `without_extension`."""
    return f"regexp_replace({key}, '[.][a-z0-9]+$', '')"


def sidecar_key_sql(image_key: str) -> str:
    """Return the SQL of `sidecar_key`."""
    return f"({without_extension_sql(image_key)} || '.{SIDECAR}')"


def parse_image_key(key: str) -> ImageKey | None:
    """Parse the key of an image or of its sidecar; None if it isn't one."""
    return _image_key(_IMAGE.fullmatch(key))


def is_sidecar_key(key: str) -> bool:
    """Whether a key, of an image or its sidecar, is the sidecar's."""
    return key.endswith(f".{SIDECAR}")


def is_image_name(name: str) -> bool:
    """Whether this is the last segment of the key of an image or of its sidecar."""
    return re.fullmatch(_NAME, name) is not None


def quarantine_key(key: str) -> str:
    """Return where the image of an image key lies while it is in quarantine: `<batch>/quarantine/<shard>/…`."""
    batch, _, rest = key.partition(f"/{IMAGES}/")
    return f"{batch}/{QUARANTINE}/{rest}"


def parse_quarantine_key(key: str) -> ImageKey | None:
    """Parse the key of an image in quarantine, or of its sidecar; None if it isn't one."""
    return _image_key(_QUARANTINED.fullmatch(key))


def _image_key(match: re.Match[str] | None) -> ImageKey | None:
    return ImageKey(match[1], int(match[3]), int(match[4]), match[5]) if match else None


def export_folder(batch: str, format: str = DEFAULT_FORMAT) -> str:
    """Return the folder of a batch's exports in a format, ending in a slash: `<batch>/export/` for Parquet."""
    return f"{batch}/{EXPORT}/" if format == DEFAULT_FORMAT else f"{batch}/{EXPORT}-{format}/"


def copy_name(sha256: str, extension: str, sidecar_sha256: str | None = None) -> str:
    """Return the name of an image's copy in an export's folder: `_images/<first 2 digits>/<sha256>.<ext>`.

    That of one with a sidecar is `<sha256>-<12 digits of the sidecar's>`: equal pictures may have several.
    """
    sidecar = "" if sidecar_sha256 is None else f"-{sidecar_sha256[:12]}"
    return f"_{IMAGES}/{sha256[:2]}/{sha256}{sidecar}.{extension}"


def is_copy(name: str) -> bool:
    """Whether this is the name of an image's copy in an export's folder."""
    return re.fullmatch(IMAGE_COPY, name) is not None


def part_format(name: str) -> str | None:
    """Return the format of the export whose data file has this name; None for other names."""
    match = _PART.fullmatch(name)
    return match[1] if match else None


def is_part(name: str) -> bool:
    """Whether this is the name of an export's data file."""
    return part_format(name) is not None


def is_table_metadata(name: str) -> bool:
    """Whether this is the name, in an export's folder, of metadata of an Iceberg table or a Lance dataset."""
    return _TABLE_METADATA.fullmatch(name) is not None


def belongs_to_table(name: str) -> bool:
    """Whether readers of an export's folder take the file for a part of a table's metadata, whoever wrote it.

    Tags, indices and deletions of a Lance dataset are the user's: they aren't deleted.
    """
    return is_table_metadata(name) or name.startswith(("_refs/", "_indices/", "_deletions/"))


def batch_of(key: str) -> str | None:
    """Return the batch of an image's key, in quarantine or not, or of an export file's key; None for other keys."""
    is_image = parse_image_key(key) or parse_quarantine_key(key)
    return key.partition("/")[0] if is_image or _EXPORTED.fullmatch(key) else None


def is_batch_folder(path: str) -> bool:
    """Whether this is the path of a batch's folder or of a folder that nightmill makes in it."""
    return _FOLDER.fullmatch(path) is not None
