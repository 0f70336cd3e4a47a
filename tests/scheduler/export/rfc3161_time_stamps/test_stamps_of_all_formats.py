"""Time stamps are of all files with data, in each format: whoever checks an export finds none that no shard has."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from scheduler.export.check_export_folder import CheckedFiles, StampState, check_export_folder
from scheduler.export.export_options import ExportOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of, format_names
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority
from scheduler.export.run_export import export
from tests.factories import change
from tests.scheduler.export.datasets import with_pictures
from tests.scheduler.export.rfc3161_time_stamps.authority_server import (
    Authority,
    Served,
    needs_openssl,
    with_authority,
)

pytestmark = needs_openssl

ROWS = 2
FEW = ("image_id", "ordinal", "prompt", "sha256", "path")
"""Reading and writing statistics of ninety columns takes most of a test's time."""
KINDS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in format_names()),
    *((name, {"copy_images": True}) for name in ("csv", "jsonl", "parquet")),
    ("jsonl", {"embed_images": True}),
    ("parquet", {"partition_by": ("ordinal",)}),
    ("hf", {"layout": "imagefolder"}),
]


def checked(
    engine: Engine, tmp_path: Path, settings: Settings, own: Authority, format: str, options: dict[str, Any]
) -> list[CheckedFiles]:
    """An export of four shards, of which the third has no images, and some manifests lie beside their images."""
    rows = [{"prompt": f"fox {n}"} for n in range(4 * ROWS)]
    batch = with_pictures(engine, tmp_path / "images", rows, sidecars=(0, 5))
    change(engine, f"DELETE FROM images WHERE ordinal / {ROWS} = 2")  # noqa: S608 - a number
    store, source = open_store(str(tmp_path / "set"), S3Options()), open_store(batch.output, S3Options())
    columns = {} if format == "webdataset" else {"columns": FEW}
    request = ExportRequest(
        [actions.status(engine, batch.name)], format, store, options=ExportOptions(**columns, **options)
    )
    export(engine, request, lambda _: source, authority=TimeStampAuthority.of_settings(settings))
    return list(check_export_folder(store, "", [own.trusted]))


@pytest.mark.parametrize(
    ("format", "options"), KINDS, ids=lambda each: each if isinstance(each, str) else "_".join(each)
)
def test_no_file_with_data_is_without_a_stamp(
    engine: Engine,
    tmp_path: Path,
    settings: Settings,
    served: Served,
    own: Authority,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(exporter_of(format), "shard_rows", ROWS)
    *shards, others = checked(engine, tmp_path, with_authority(settings, served), own, format, options)
    assert [(each.number, each.is_sealed, each.stamp, bool(each.files)) for each in shards] == [
        (number, True, StampState.NONE if number == 2 else StampState.TRUSTED, number != 2)
        for number in range(4)
    ]
    for each in (*shards, others):
        assert (each.missing, each.changed, each.unlisted, each.of_no_shard) == ([], [], [], [])
        assert (each.numbering, each.is_finished) == (None, True)
