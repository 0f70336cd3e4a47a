"""`nightmill export --where CONDITION`: only the images that meet it, and no shard sealed before they are judged."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine

from jobs.batches.evaluate_accept_condition import judge_all
from jobs.batches.status import BatchStatus
from tests.console.conftest import Typed
from tests.factories import change
from tests.scheduler.export.datasets import with_pictures

ROWS: list[dict[str, Any]] = [
    {"prompt": f"fox {n}", "id": f"r{n}", "label": "100%" if n % 2 else "owl"} for n in range(6)
]


@pytest.fixture
def batch(engine: Engine, tmp_path: Path) -> BatchStatus:
    """Six images, three of which the policy accepts."""
    accept = {"target": 3, "accept": "meta.label = '100%'"}
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes", **accept)
    judge_all(engine, batch.id)
    return batch


def rows_in(folder: Path) -> list[str]:
    return sorted(pd.read_parquet(folder)["row_id"])


@pytest.mark.usefixtures("batch")
def test_rows_card_and_counts_are_of_images_that_meet_it(typed: Typed, tmp_path: Path) -> None:
    ended = typed("export", "foxes", "--where", "accepted and row_id != 'r1'", "--to", str(tmp_path / "set"))
    assert ended.code == 0, ended.err
    assert rows_in(tmp_path / "set") == ["r3", "r5"]
    card = (tmp_path / "set" / "_README.md").read_text()
    assert "2 synthetic images" in card
    assert "Only images with `accepted and row_id != 'r1'` are in it." in card
    told = json.loads((tmp_path / "set" / "_SUCCESS").read_text())
    assert sum(model["images"] for model in told["models"]) == 2
    assert (told["images"], told["complete"], told["options"]["where"]) == (
        2,
        True,
        "accepted and row_id != 'r1'",
    )
    for format in ("jsonl", "webdataset", "hf"):
        again = typed(
            "export", "foxes", "--where", "accepted", "--format", format, "--to", f"{tmp_path}/{format}"
        )
        assert again.code == 0, again.err
        assert json.loads((tmp_path / format / "_SUCCESS").read_text())["images"] == 3
        assert "3 synthetic images" in (tmp_path / format / "README.md").read_text()


def test_no_shard_is_sealed_before_its_images_are_judged(
    typed: Typed, engine: Engine, batch: BatchStatus, tmp_path: Path
) -> None:
    change(engine, "DELETE FROM image_acceptance WHERE image_id = (SELECT max(id) FROM images)")
    export = ("export", "foxes", "--where", "accepted", "--to", str(tmp_path / "set"))
    assert typed(*export).code == 0
    assert json.loads((tmp_path / "set" / "_SUCCESS").read_text())["complete"] is False
    assert rows_in(tmp_path / "set") == ["r1", "r3"]
    judge_all(engine, batch.id)
    assert typed(*export).code == 0
    assert json.loads((tmp_path / "set" / "_SUCCESS").read_text())["complete"] is True
    assert rows_in(tmp_path / "set") == ["r1", "r3", "r5"]


@pytest.mark.usefixtures("batch")
def test_what_is_wrong_with_a_condition_is_said(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    with_pictures(engine, tmp_path / "output", 1, name="plain")
    for batch, condition, reason in (
        ("plain", "accepted", "batch plain has no policy `accept`"),
        ("foxes", "acepted", "acepted"),
        ("foxes", "clip_score >", "expected"),
    ):
        refused = typed("export", batch, "--where", condition, "--to", str(tmp_path / "set"))
        assert (refused.code, reason in refused.err) == (2, True), refused.err
    assert not (tmp_path / "set").exists()
