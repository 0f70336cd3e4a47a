"""The image that `show` and `reproduce` are asked about: by the number of its row, or by a picture of it."""

from pathlib import Path
from typing import Any

from console.provenance_lookup.database_index import DatabaseIndex
from console.provenance_lookup.list_pictures import pictures_in
from console.provenance_lookup.watermark_keys import keys_to_try
from console.session import Session, s3_options
from jobs.errors import UsageError
from jobs.images.find_rows_by_mark_or_digest import image_record
from jobs.input_image_access import PictureRefusedError
from jobs.settings import Settings
from jobs.signing_identity.find_identity_file import trusted_authorities
from models.optional_packages import require


def require_installation(settings: Settings) -> None:
    """Raise UsageError where there are no images yet, instead of making a database for none."""
    if settings.database_url is None and not (settings.data_dir / "postgres").exists():
        raise UsageError(f"there is no installation in {settings.data_dir}, and so no image")


def chosen_image(open_session: Session, given: str, keys: Path | None = None) -> dict[str, Any]:
    """Return the record of the image with a number, or of which `given` is a picture (a path or s3:// URI).

    Raises UsageError if there is none, or it can't be told.
    """
    number = (
        int(given)
        if given.isdecimal() and not Path(given).exists()
        else _number_of(open_session, given, keys)
    )
    record = image_record(open_session.engine, number)
    if record is None:
        raise UsageError(f"there is no image {number}")
    return record


def _number_of(open_session: Session, given: str, keys: Path | None) -> int:
    require("worker", instead="name the image by its number, `image_id`")
    from console.provenance_lookup.trace_picture import PictureTracer  # noqa: PLC0415 - needs these packages
    from console.provenance_lookup.weigh_claims import Verdict  # noqa: PLC0415 - the same

    settings = open_session.settings
    (picture, *others) = pictures_in([given], s3_options(settings))
    if others:
        raise UsageError(f"{given} is a folder: name one picture")
    index = DatabaseIndex(open_session.engine)
    tracer = PictureTracer(keys_to_try(settings, keys), trusted_authorities(settings), index, searches=True)
    try:
        (told,) = tracer.by_files([tracer.trace(picture.read(), picture.location, picture.read_sidecar)])
    except PictureRefusedError as error:
        raise UsageError(str(error)) from None
    if told["row"] is None or told["verdict"] != Verdict.OURS:
        why = f": {told['why']}" if told["why"] else ""
        raise UsageError(f"{given}: {told['verdict']}{why}")
    return int(told["row"]["image"])
