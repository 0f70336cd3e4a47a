"""`nightmill check` and `nightmill adopt`, and what commands say of folders that aren't ours."""

import json
import os
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.drop_jobs_and_delete_batches import archive
from jobs.feed import feed
from jobs.outputs.mount_marker import open_output
from jobs.storage.folder import MARKER
from jobs.storage.open import S3Options, open_store
from scheduler.ingest.ingest import Ingested
from tests.console.conftest import Typed
from tests.end_to_end.processes import until
from tests.factories import change, lane_differences, make_batch, states
from tests.ownership import give_to_another, render


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def night(engine: Engine, output: Path) -> Ingested:
    """A batch of five images, all done."""
    store = open_output(engine, str(output), S3Options())
    batch = make_batch(engine, 5, name="night", output=str(output))
    render(engine, store, batch)
    return batch


def files(output: Path) -> list[Path]:
    return sorted(output.glob("night/images/*/*"))


@pytest.mark.usefixtures("night")
class TestCheck:
    def test_all_is_well(self, typed: Typed) -> None:
        ended = typed("check", "night", "--json")
        assert (ended.code, ended.json) == (
            0,
            {"batch": "night", "images": 5, "checked": 5, "missing": [], "damaged": [], "queued": 0},
        )
        assert "5 of 5 images of night read: 0 missing, 0 damaged" in ended.err

    def test_what_is_missing_or_damaged_is_told(self, typed: Typed, output: Path) -> None:
        first, second, third, *_ = files(output)
        first.unlink()
        second.write_bytes(b"another picture")
        third.write_bytes(third.read_bytes()[::-1])
        ended = typed("check", "night", "--json")
        assert ended.code == 1
        assert [(each["ordinal"], each["reason"]) for each in ended.json["missing"]] == [
            (0, "the object isn't there")
        ]
        assert [(each["ordinal"], each["reason"]) for each in ended.json["damaged"]] == [
            (1, "the object has 15 bytes, the row says 10"),
            (2, "the object has another SHA-256"),
        ]
        shown = typed("check", "night")
        assert shown.out.splitlines()[0] == f"{first.relative_to(output)}\tthe object isn't there"
        assert "`nightmill check night --repair` queues them again" in shown.err

    def test_a_repair_queues_them_again(self, typed: Typed, output: Path, engine: Engine) -> None:
        cursor = until(lambda: list(feed.read(engine))[4:])[-1]["cursor"]  # others' transactions hold it back
        files(output)[1].unlink()
        change(engine, "UPDATE images SET key = '../../etc/passwd' WHERE ordinal = 3")
        actions.cancel(engine, 1)
        ended = typed("check", "night", "--repair", "--json")
        assert (ended.code, ended.json["queued"]) == (1, 2)
        assert states(engine) == {"done": 3, "queued": 2}
        assert lane_differences(engine) == []
        assert actions.status(engine, "night").state == "queued"
        batch = actions.status(engine, "night")
        made = render(
            engine, open_store(str(output), S3Options()), Ingested(batch.id, "night", False, 5, 0, 5)
        )
        assert [int(key.split("/")[-1][:9]) for key in made] == [1, 3]
        assert typed("check", "night", "--repair").code == 0
        until(lambda: [row["ordinal"] for row in feed.read(engine, cursor)] == [1, 3])  # the feed goes on

    def test_links_and_folders_in_the_place_of_images_are_findings_among_others(
        self, typed: Typed, output: Path, engine: Engine, tmp_path: Path
    ) -> None:
        first, second, third, fourth, _ = files(output)
        first.rename(tmp_path / "kept.png")
        first.symlink_to(tmp_path / "kept.png")
        second.write_bytes(b"junk")
        third.unlink()
        third.mkdir()
        fourth.unlink()
        os.mkfifo(fourth)
        ended = typed("check", "night", "--json")
        assert ended.code == 1, ended.err
        assert [(each["ordinal"], each["is_blocked"]) for each in ended.json["damaged"]] == [
            (0, False),
            (1, False),
            (3, False),
        ]
        assert [(each["ordinal"], each["is_blocked"]) for each in ended.json["missing"]] == [(2, True)]
        assert f"{first.name} is a symbolic link" in ended.json["damaged"][0]["reason"]
        assert f"{third.name} is a folder: remove it" in ended.json["missing"][0]["reason"]
        assert "1 can't be stored until what stands in their place is removed" in ended.err
        assert typed("check", "night", "--repair", "--json").json["queued"] == 3
        assert states(engine) == {"done": 2, "queued": 3}
        batch = actions.status(engine, "night")
        render(engine, open_store(str(output), S3Options()), Ingested(batch.id, "night", False, 5, 0, 5))
        assert not first.is_symlink()
        assert (tmp_path / "kept.png").is_file()
        assert [each["ordinal"] for each in typed("check", "night", "--json").json["missing"]] == [2]

    @pytest.mark.parametrize("file", [False, True])
    def test_what_cannot_be_stored_is_not_drawn_again(
        self, typed: Typed, output: Path, engine: Engine, tmp_path: Path, file: bool
    ) -> None:
        """Else it would be drawn and refused again and again."""
        folder = files(output)[0].parent
        folder.rename(tmp_path / "elsewhere")
        if file:
            folder.write_text("no folder")
        else:
            folder.symlink_to(tmp_path / "elsewhere")
        for options in ([], ["--repair"]):
            ended = typed("check", "night", "--json", *options)
            assert (ended.code, ended.json["queued"]) == (1, 0)
            found = ended.json["missing" if file else "damaged"]
            assert [each["is_blocked"] for each in found] == [True] * 5
            assert f"{folder.name} is a {'file' if file else 'symbolic link'}" in found[0]["reason"]
            assert "`nightmill check night --repair` queues them" not in ended.err
        assert states(engine) == {"done": 5}

    def test_a_sample(self, typed: Typed) -> None:
        assert typed("check", "night", "--sample", "1%", "--json").json["checked"] == 1
        assert typed("check", "night", "--sample", "41%", "--json").json["checked"] == 3
        for wrong in ("0%", "101%", "1", "-1%", "many"):
            ended = typed("check", "night", f"--sample={wrong}")
            assert (ended.code, "write a share above 0 %" in ended.err) == (2, True)

    def test_an_archived_batch_is_read_and_not_repaired(
        self, typed: Typed, output: Path, engine: Engine
    ) -> None:
        archive(engine, actions.status(engine, "night"))
        assert typed("check", "night").code == 0
        files(output)[0].unlink()
        ended = typed("check", "night", "--repair")
        assert (ended.code, "night is archived: its jobs are gone" in ended.err) == (2, True)

    def test_a_share_that_is_not_mounted_is_no_loss(self, typed: Typed, output: Path, engine: Engine) -> None:
        output.rename(output.with_name("share"))
        output.mkdir()
        for command in ("check night --repair", "delete night --files --yes"):
            ended = typed(*command.split())
            assert (ended.code, "is the share mounted?" in ended.err) == (1, True)
        assert states(engine) == {"done": 5}
        assert typed("doctor").code == 1

    def test_an_output_that_was_emptied_on_purpose(self, typed: Typed, output: Path) -> None:
        output.rename(output.with_name("share"))
        assert typed("check", "night", "--repair").code == 1
        asked = typed("adopt", "night")
        assert (asked.code, "say --yes" in asked.err) == (2, True)
        assert typed("adopt", "night", "--yes").code == 0
        assert (output / MARKER).is_file()
        assert typed("check", "night", "--repair", "--json").json["queued"] == 5


@pytest.mark.usefixtures("night")
class TestFoldersOfOthers:
    def test_nothing_is_touched_there(self, typed: Typed, output: Path) -> None:
        give_to_another(open_store(str(output), S3Options()), "night")
        before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
        for command, code in (
            ("delete night --files --yes", 2),
            ("sweep night", 1),
            ("export night", 2),
            ("check night --repair", 2),
            ("adopt night --yes", 2),
        ):
            ended = typed(*command.split())
            assert ended.code == code, command
            assert "night belongs to another installation of nightmill" in ended.err.replace("\n", " "), (
                command
            )
        assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before

    def test_a_submit_is_refused_and_leaves_nothing(self, typed: Typed, output: Path, engine: Engine) -> None:
        (typed.folder / "fox.jsonl").write_text(json.dumps({"prompt": "a fox"}) + "\n")
        assert typed("submit", "fox.jsonl").code == 0
        give_to_another(open_store(str(output), S3Options()), "fox")
        change(
            engine,
            "DELETE FROM jobs; DELETE FROM lanes WHERE batch_id <> 1; DELETE FROM batches WHERE id <> 1",
        )
        for command in ("submit", "run"):
            ended = typed(command, "fox.jsonl")
            assert ended.code == 2
            assert "fox belongs to another installation of nightmill" in ended.err.replace("\n", " ")
            assert "postgresql://elsewhere/theirs on elsewhere" in ended.err.replace("\n", " ")
        assert [status.name for status in actions.statuses(engine)] == ["night"]

    def test_a_submit_that_comes_to_nothing_owns_nothing(self, typed: Typed, output: Path) -> None:
        (typed.folder / "bad.jsonl").write_text('{"prompt": "a fox"}\n{"prompt": 3}\n')
        assert typed("submit", "bad.jsonl", "--strict").code == 2
        assert not (output / "bad").exists()

    @pytest.mark.parametrize("file", [None, "notes.txt"])
    def test_a_folder_that_was_there_stays_if_a_submit_comes_to_nothing(
        self, typed: Typed, output: Path, file: str | None
    ) -> None:
        (typed.folder / "bad.jsonl").write_text('{"prompt": 3}\n')
        (output / "bad").mkdir(parents=True)
        if file is not None:
            (output / "bad" / file).touch()
        assert typed("submit", "bad.jsonl", "--strict").code == 2
        assert [path.name for path in (output / "bad").iterdir()] == ([] if file is None else [file])


def test_a_users_files_stay_and_are_named(typed: Typed, output: Path, night: Ingested) -> None:
    notes = [output / "night" / "my notes.txt", output / "night" / "images" / "000000" / "thoughts.txt"]
    for note in notes:
        note.write_text("mine")
    ended = typed("delete", "night", "--files", "--yes", "--json")
    assert (ended.code, ended.json["stayed"]) == (
        0,
        ["night/images/000000/thoughts.txt", "night/my notes.txt"],
    )
    assert "2 files not written by nightmill left in" in ended.err
    assert [note.read_text() for note in notes] == ["mine", "mine"]
    assert sorted(path for path in output.rglob("*") if path.is_file()) == sorted([*notes, output / MARKER])
