"""The commands that look, on batches that were rendered by `nightmill run`."""

import hashlib
import json
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.db.engine import connect
from jobs.manifest.seeds import seed_of_name
from jobs.queue import transitions
from tests.console.conftest import Lab
from tests.factories import change, failure, look, take

STATUS = ["batch", "name", "state", "counts", "rejected", "images_per_s", "eta_s"]
STATES = ["queued", "running", "done", "failed", "blocked", "cancelled", "retracted"]


def test_a_run_that_goes_well_ends_with_a_summary(lab: Lab) -> None:
    assert lab.night.code == 0, lab.night.err
    facts = {line[:14].strip(): line[15:].strip() for line in lab.night.out.splitlines()}
    assert facts["batch"] == "night"
    assert facts["jobs"] == "4 done, 1 blocked"
    assert facts["rejected rows"] == "2"
    assert facts["rendered"].startswith("4 images in ")
    assert "its child" in facts["peak memory"]
    assert facts["images"] == str(lab.output / "night" / "images")
    assert facts["export"] == str(lab.output / "night" / "export")
    assert facts["contact sheet"] == str(lab.output / "night" / "contact-sheet.png")
    assert [line for line in lab.night.err.splitlines() if "to go" not in line] == [
        "lines: 6 = 4 rows + 2 rejected",
        "batch night: 6 rows gave 5 jobs, 2 rejected",
        f"seeds: of rows without one by their ids, batch seed {seed_of_name('night')}",
        "`nightmill rejects night` tells why rows were rejected",
        "`nightmill status night` tells why jobs failed or were blocked",
    ]


def test_a_run_that_no_worker_can_do_ends_with_1_and_its_jobs_wait(lab: Lab) -> None:
    assert lab.day.code == 1
    assert lab.day.json["counts"] == dict.fromkeys(STATES, 0) | {"queued": 2}
    why = "the model 'absent' is not there: expected a folder in diffusers format at"
    assert why in lab.day.json["waiting"]
    assert f"day: waiting: no worker can go on: can't load the model 'absent': {why}" in lab.day.err
    assert (lab.day.json["rendered"], lab.day.json["contact_sheet"]) == (0, None)
    assert "Traceback" not in lab.day.err


def test_what_lies_beside_the_images(lab: Lab) -> None:
    folder = lab.output / "night"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".nightmill-owner.json",
        "contact-sheet.png",
        "export",
        "images",
    ]
    files = sorted(path.relative_to(folder) for path in folder.glob("images/**/*") if path.is_file())
    assert [file.name[:15] for file in files] == [
        "000000000-00000",
        "000000001-00000",
        "000000002-00000",
        "000000002-00001",
    ]
    table = pq.read_table(folder / "export" / "part-00000.parquet").to_pylist()
    for row, file in zip(table, files, strict=True):
        body = (folder / file).read_bytes()
        assert row["uri"] == str(folder / file)
        assert (row["key"], row["sha256"]) == (f"night/{file}", hashlib.sha256(body).hexdigest())
    assert [row["row_id"] for row in table] == ["n0", "n1", "n2", "n2"]
    assert [json.loads(row["meta"])["label"] for row in table] == ["fox", "foxes", "bird", "bird"]
    success = json.loads((folder / "export" / "_SUCCESS").read_text())
    assert (success["images"], success["rejected"], success["counts"]["blocked"]) == (4, 2, 1)


def test_the_contact_sheet_is_a_picture_of_the_right_size(lab: Lab) -> None:
    with Image.open(lab.output / "night" / "contact-sheet.png") as sheet:
        sheet.load()
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        assert sheet.size == (4 * 170 + 10, 40 + 160 + 34 + 10 + 10)
        cell = sheet.crop((10, 40, 170, 200))
        assert len(cell.getcolors(100_000) or []) > 100


def test_the_same_run_again_renders_nothing_and_says_so(lab: Lab) -> None:
    before = sorted(path.stat().st_mtime_ns for path in lab.output.glob("night/images/*/*"))
    again = lab.nightmill("run", "night.jsonl", "--json")
    assert again.code == 0
    assert again.json["rendered"] == 0
    assert again.json["counts"]["done"] == 4
    assert "nothing is ingested twice" in again.err
    assert "nothing to render: 4 done, 1 blocked" in again.err
    assert sorted(path.stat().st_mtime_ns for path in lab.output.glob("night/images/*/*")) == before


def test_status_of_one(lab: Lab) -> None:
    status = lab.typed("status", "night", "--json")
    assert status.code == 0
    assert list(status.json)[:7] == STATUS
    assert list(status.json["counts"]) == STATES
    assert status.json["counts"] == dict.fromkeys(STATES, 0) | {"done": 4, "blocked": 1}
    assert (status.json["name"], status.json["state"], status.json["rejected"]) == ("night", "done", 2)
    (failure,) = status.json["failures"]
    assert (failure["row_id"], failure["error_kind"]) == ("n3", "safety")
    lane = {
        "tenant": "",
        "model": "tiny-random",
        "mode": "text2image",
        "lora": "",
        "width": 64,
        "height": 64,
        "upscale": 0,
    }
    lanes = status.json["lanes"]
    assert all(told.pop("image_s") > 0 for told in lanes)
    assert all(told.pop("worker_s") > told.pop("device_s") > 0 for told in lanes)
    assert [told.pop("joules") for told in lanes] == [None] * len(lanes)
    assert lanes == [
        lane | {"counts": {"done": 2, "blocked": 1}},
        lane | {"width": 96, "counts": {"done": 2}},
    ]
    assert datetime.fromisoformat(status.json["created_at"]).tzinfo
    shown = lab.typed("status", "night")
    assert "jobs      4 done, 1 blocked" in shown.out
    assert "prompt holds 'naked man'" in shown.out
    by_number = lab.typed("status", str(status.json["batch"]), "--json")
    assert by_number.json["name"] == "night"


def test_status_of_all(lab: Lab) -> None:
    listed = lab.typed("status", "--json")
    assert [status["name"] for status in listed.json][:2] == ["night", "day"]
    assert all(list(status)[:7] == STATUS for status in listed.json)
    shown = lab.typed("status")
    heading, *lines = [line.split() for line in shown.out.splitlines()]
    assert heading[:3] == ["batch", "name", "state"]
    assert ["night", "done", "0", "0", "4", "0", "1", "0", "0", "2"] in [line[1:11] for line in lines]


def test_watching_a_batch_that_has_ended(lab: Lab) -> None:
    watched = lab.typed("status", "night", "--watch")
    assert watched.code == 0
    assert "4 done, 1 blocked" in watched.out


def test_rejects(lab: Lab) -> None:
    rejects = lab.typed("rejects", "night", "--json").json
    assert [(row["line"], row["column"]) for row in rejects] == [(5, "width"), (6, "num_imagse")]
    assert rejects[0]["reason"] == "width must be 64 to 256, not 63"
    assert "did you mean 'num_images'?" in rejects[1]["reason"]
    shown = lab.typed("rejects", "night")
    heading, *lines = shown.out.splitlines()
    assert heading.split() == ["line", "column", "reason", "row"]
    assert [line.split()[0] for line in lines] == ["5", "6"]
    assert "2 of 6 rows of night.jsonl rejected" in shown.err


def test_export_as_jsonl_elsewhere(lab: Lab) -> None:
    exported = lab.typed("export", "night", "--format", "jsonl", "--to", "elsewhere/deep", "--json")
    assert exported.code == 0, exported.err
    (file,) = exported.json["files"]
    assert file == str(lab.folder / "elsewhere" / "deep" / "part-00000.jsonl")
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    assert [row["prompt"] for row in rows[:2]] == ["a red fox", "[bold]füchse[/bold], 狐狸\nat night"]
    assert rows[0]["meta"] == {"label": "fox"}
    assert (lab.folder / "elsewhere" / "deep" / "_SUCCESS").is_file()
    shown = lab.typed("export", "day")
    assert shown.out.split("\t")[1:] == ["0 rows", shown.out.split("\t")[2]]
    assert (lab.output / "day" / "export" / "part-00000.parquet").is_file()


def test_the_feed_goes_on_from_a_cursor(lab: Lab) -> None:
    rows = [json.loads(line) for line in lab.typed("feed").out.splitlines()]
    assert sorted(row["row_id"] for row in rows) == ["n0", "n1", "n2", "n2"]
    rest = lab.typed("feed", "--since", rows[1]["cursor"], "--batch", "night")
    assert [json.loads(line)["image_id"] for line in rest.out.splitlines()] == [
        row["image_id"] for row in rows[2:]
    ]
    assert lab.typed("feed", "--since", rows[-1]["cursor"]).out == ""
    assert lab.typed("feed", "--batch", "day").out == ""


@pytest.mark.parametrize("arguments", ["feed", "status night --json", "models --json", "rejects night"])
def test_a_reader_that_has_seen_enough(lab: Lab, arguments: str) -> None:
    """`| head -1`, and a reader that is gone before the first word."""
    for reader in ("head -1", "true"):
        ended = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m console.cli {arguments} | {reader}"],
            cwd=lab.folder,
            env=lab.nightmill.settings.environment(),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert ended.returncode == 0
        assert "Error" not in ended.stderr
        assert "Exception" not in ended.stderr
        assert len(ended.stdout.splitlines()) == (1 if reader == "head -1" else 0)


def test_models(lab: Lab) -> None:
    listed = lab.typed("models", "--json")
    assert {card["id"] for card in listed.json} >= {"tiny-random", "absent"}
    here = {card["id"]: card["is_here"] for card in listed.json}
    assert (here["shapes"], here["tiny-random"], here["absent"]) == (True, False, False)
    assert "absent" in lab.typed("models").out
    shown = lab.typed("models", "show", "TINY", "--json")
    assert (shown.json["id"], shown.json["license"]) == ("tiny-random", "Apache-2.0")
    assert "Its weights are random" in lab.typed("models", "show", "tiny").out


def test_doctor(lab: Lab) -> None:
    engine = connect(lab.nightmill.settings.database)
    change(engine, "DELETE FROM workers")  # one of `day` that was killed counts for a minute
    engine.dispose()
    looked = lab.typed("doctor", "--json")
    assert looked.code == 0, looked.out
    assert all(check["ok"] for check in looked.json)
    names = [check["check"] for check in looked.json]
    assert names == [
        "python",
        "packages",
        "settings",
        "device",
        "PostgreSQL",
        "feed",
        "workers",
        "retention",
        "processes",
        "Redis",
        "output",
        "models",
        "signing",
        "content safety",
        "time stamps",
        "disk",
    ]
    shown = lab.typed("doctor")
    assert shown.code == 0
    assert "tables up to date" in shown.out


def test_help_tells_every_command(lab: Lab) -> None:
    told = lab.typed("--help").out
    batches = "run plan submit status rejects pause resume cancel retry export feed"
    for command in f"{batches} models worker scheduler up down migrate doctor".split():
        assert f" {command} " in told


def test_retry_of_what_failed(lab: Lab) -> None:
    engine = connect(lab.nightmill.settings.database)
    (lane,) = look(
        engine, "SELECT lanes.id FROM lanes JOIN batches ON batches.id = batch_id WHERE name = 'day'"
    )
    for job in take(engine, lane["id"]):
        transitions.fail(engine, [failure(job)], delay_s=0)
    engine.dispose()
    assert "it broke" in lab.typed("status", "day").out
    queued = lab.typed("retry", "day", "--only", "failed", "--error", "model", "--json")
    assert queued.code == 0
    assert queued.json["counts"]["queued"] == 2
    assert "2 jobs queued again" in queued.err
    none = lab.typed("retry", "day", "--error", "oom")
    assert "0 jobs queued again" in none.err


def test_the_version(lab: Lab) -> None:
    ended = lab.typed("--version")
    assert (ended.code, ended.out) == (0, f"nightmill {metadata.version('nightmill')}\n")
