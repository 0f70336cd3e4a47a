"""Whose a batch's folder is, and that nothing is written to or deleted from another's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.delete_files import delete_files
from jobs.db.engine import connect
from jobs.db.installation_id import this_installation
from jobs.errors import ForeignOutputError, OutputGoneError
from jobs.outputs.mount_marker import find_output, open_output
from jobs.outputs.ownership import OWNER, adopt, batch_folder_around, claim, owner_key, owner_of, read_owner
from jobs.storage.folder import MARKER
from jobs.storage.open import MissingObjectError, ObjectStore, S3Options, open_store
from scheduler.ingest.ingest import Ingested
from scheduler.orphaned_objects import sweep_batch
from tests.factories import change, look, make_batch
from tests.ownership import give_to_another, render
from tests.s3 import S3Server
from tests.servers import DatabasePool

NAME = "night"


@dataclass
class Place:
    """An output of either kind."""

    output: str
    options: S3Options

    @property
    def store(self) -> ObjectStore:
        return open_store(self.output, self.options)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> Place:
    if request.param == "folder":
        return Place(str(tmp_path / "output"), S3Options())
    return Place(f"{s3.uri}/{tmp_path.name}", S3Options(s3.endpoint_url, "us-east-1"))


@pytest.fixture
def another(databases: DatabasePool) -> Iterator[Engine]:
    """Another installation: a database of its own."""
    with databases.new() as url:
        engine = connect(url)
        yield engine
        engine.dispose()


def unclaimed(engine: Engine, place: Place, jobs: int = 3) -> Ingested:
    """A batch as earlier versions left it: without an owner object."""
    batch = make_batch(engine, jobs, name=NAME)
    change(engine, "UPDATE batches SET output = :output", output=place.output)
    return batch


def keys(store: ObjectStore) -> list[str]:
    return [found.key for found in store.list("") if not found.key.endswith((OWNER, MARKER))]


class TestInstallation:
    def test_an_id_is_made_once(self, engine: Engine) -> None:
        first = this_installation(engine)
        assert this_installation(engine) == first
        assert first.earlier == frozenset()

    def test_another_database_has_another(self, engine: Engine, another: Engine) -> None:
        assert this_installation(engine).id != this_installation(another).id

    def test_tables_restored_elsewhere_take_a_new_id_and_know_the_old(
        self, engine: Engine, another: Engine
    ) -> None:
        first = this_installation(engine)
        (row,) = look(engine, "SELECT * FROM installations")
        change(another, "INSERT INTO installations VALUES (:id, :cluster, :database, :made_at)", **row)
        restored = this_installation(another)
        assert restored.id != first.id
        assert restored.earlier == {first.id}

    @pytest.mark.parametrize("column", ["cluster", "database"])
    def test_a_cluster_or_a_database_that_changed_is_another(self, engine: Engine, column: str) -> None:
        first = this_installation(engine)
        change(engine, f"UPDATE installations SET {column} = '1'")  # noqa: S608
        assert this_installation(engine).id != first.id


class TestClaim:
    def test_the_first_owns_it_and_the_second_is_told_whose_it_is(
        self, engine: Engine, another: Engine, place: Place
    ) -> None:
        batch, theirs = unclaimed(engine, place), unclaimed(another, place)
        owner = claim(engine, place.store, batch.id, NAME)
        assert claim(engine, place.store, batch.id, NAME) == owner == read_owner(place.store, NAME)
        assert (owner.installation, owner.batch) == (this_installation(engine).id, batch.id)
        with pytest.raises(
            ForeignOutputError, match=f"night belongs to another installation.*{owner.installation}"
        ) as no:
            claim(another, place.store, theirs.id, NAME)
        assert owner.database in str(no.value)
        assert "--name or --out" in str(no.value)
        assert no.value.exit_code == 2
        assert "adopt" not in str(no.value)

    def test_places_in_a_batchs_folder_are_known(self, engine: Engine, place: Place) -> None:
        batch = unclaimed(engine, place)
        claim(engine, place.store, batch.id, NAME)
        around = f"{place.output}/{NAME}"
        for below in ("", "/export", "/export/deep/"):
            assert batch_folder_around(f"{around}{below}", place.options) == around
        for outside in ("", "/export", f"/{NAME}-2"):
            assert batch_folder_around(f"{place.output}{outside}", place.options) is None

    def test_no_password_is_written_down(self, engine: Engine, place: Place) -> None:
        claim(engine, place.store, unclaimed(engine, place).id, NAME)
        told = json.loads(place.store.get(owner_key(NAME)))["database"]
        assert told == (
            f"postgresql://{engine.url.username}@/{engine.url.database}?host={engine.url.query['host']}"
        ), "a private database is known by its folder"

    def test_of_two_at_once_one_owns_it(
        self, engine: Engine, another: Engine, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both have looked and found nothing; one of them writes first."""
        batch, theirs = unclaimed(engine, place), unclaimed(another, place)
        store = place.store
        put_new = type(store).put_new

        def late(self: ObjectStore, *arguments: object, **options: object) -> bool:
            monkeypatch.undo()
            claim(another, place.store, theirs.id, NAME)
            return put_new(self, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(type(store), "put_new", late)
        with pytest.raises(ForeignOutputError, match="belongs to another installation"):
            claim(engine, store, batch.id, NAME)

    def test_a_batch_of_a_deleted_ones_name_goes_on_in_its_folder(self, engine: Engine, place: Place) -> None:
        batch = unclaimed(engine, place)
        first = claim(engine, place.store, batch.id, NAME)
        change(engine, "DELETE FROM jobs; DELETE FROM batches")
        again = unclaimed(engine, place)
        assert claim(engine, place.store, again.id, NAME).batch == again.id != first.batch

    @pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"installation": 7}', b"\xff"])
    def test_an_owner_object_that_says_nothing_is_anybodys(
        self, engine: Engine, place: Place, body: bytes
    ) -> None:
        batch = unclaimed(engine, place)
        place.store.put(owner_key(NAME), body, content_type="application/json")
        with pytest.raises(ForeignOutputError, match="can't be read, so nobody knows"):
            claim(engine, place.store, batch.id, NAME)


class TestBatchesOfEarlierVersions:
    """Without an owner object, only images of our own rows prove that a folder is ours."""

    def test_a_folder_with_images_of_ours_is_claimed(self, engine: Engine, place: Place) -> None:
        batch = unclaimed(engine, place)
        render(engine, place.store, batch)
        assert owner_of(engine, place.store, batch.id, NAME) is None
        assert claim(engine, place.store, batch.id, NAME).batch == batch.id

    def test_a_folder_without_images_is_claimed(self, engine: Engine, place: Place) -> None:
        batch = unclaimed(engine, place)
        beside = f"{NAME}/images/000000/000000001-00000.{'0' * 12}"
        for key in (f"{NAME}/notes.txt", f"{beside}.txt", f"{beside}.c2pa"):
            place.store.put(key, b"mine", content_type="text/plain")
        assert claim(engine, place.store, batch.id, NAME).batch == batch.id

    def test_a_folder_with_images_of_others_alone_is_not(
        self, engine: Engine, another: Engine, place: Place
    ) -> None:
        theirs = unclaimed(another, place)
        there = render(another, place.store, theirs, b"theirs")
        batch = unclaimed(engine, place)
        lost = render(engine, place.store, batch, b"ours")
        for key in lost:
            place.store.delete(key)
        for verb in (
            lambda: claim(engine, place.store, batch.id, NAME),
            lambda: list(sweep_batch(engine, place.store, batch.id, older_than=timedelta(seconds=-5))),
            lambda: delete_files(engine, place.store, actions.status(engine, NAME)),
        ):
            with pytest.raises(ForeignOutputError, match="holds images that no row of this database names"):
                verb()
        assert keys(place.store) == there

    def test_what_was_there_before_the_claim_is_never_swept(
        self, engine: Engine, another: Engine, place: Place
    ) -> None:
        """Two installations of the earlier version rendered one batch into one folder: nobody can tell them apart."""
        batch, theirs = unclaimed(engine, place), unclaimed(another, place)
        there = render(engine, place.store, batch, b"ours") + render(another, place.store, theirs, b"theirs")
        owner = claim(engine, place.store, batch.id, NAME)
        later = replace(owner, since=owner.since + timedelta(seconds=10))
        place.store.put(owner_key(NAME), later.body(), content_type="application/json")
        assert not any(sweep_batch(engine, place.store, batch.id, older_than=timedelta(seconds=-5)))
        delete_files(engine, place.store, actions.status(engine, NAME))
        assert keys(place.store) == sorted(there[3:])


class TestAdopt:
    def test_a_restored_database_takes_its_folder_over(
        self, engine: Engine, another: Engine, place: Place
    ) -> None:
        batch = unclaimed(engine, place)
        claim(engine, place.store, batch.id, NAME)
        (row,) = look(engine, "SELECT * FROM installations")
        change(another, "INSERT INTO installations VALUES (:id, :cluster, :database, :made_at)", **row)
        clone = unclaimed(another, place)
        for name in (NAME, "renamed"):
            change(another, "UPDATE batches SET name = :name, folder = :folder", name=name, folder=NAME)
            with pytest.raises(ForeignOutputError, match=f"`nightmill adopt {name}` takes the folder over"):
                claim(another, place.store, clone.id, NAME)
        adopt(another, place.store, clone.id, NAME)
        claim(another, place.store, clone.id, NAME)
        with pytest.raises(ForeignOutputError, match="belongs to another"):
            claim(engine, place.store, batch.id, NAME)

    def test_a_stranger_does_not(self, engine: Engine, another: Engine, place: Place) -> None:
        claim(engine, place.store, unclaimed(engine, place).id, NAME)
        before = place.store.get(owner_key(NAME))
        with pytest.raises(ForeignOutputError, match="belongs to another"):
            adopt(another, place.store, unclaimed(another, place).id, NAME)
        assert place.store.get(owner_key(NAME)) == before


class TestDeletingFiles:
    def test_only_what_nightmill_wrote_goes(self, engine: Engine, place: Place) -> None:
        batch = unclaimed(engine, place)
        claim(engine, place.store, batch.id, NAME)
        made = render(engine, place.store, batch)[0].removesuffix("png")
        orphan = f"{NAME}/images/000000/000000001-00000.{'0' * 12}.png"
        notes = [
            f"{NAME}/export/part-00000-c000.parquet",
            f"{made}jpg",
            f"{made}json",
            f"{made}txt",
            f"{orphan.removesuffix('png')}txt",
            f"{NAME}/images/000000/notes.txt",
            f"{NAME}/notes.txt",
        ]
        for key in (orphan, f"{NAME}/contact-sheet.png", *notes, "other/images/000000/notes.txt"):
            place.store.put(key, b"mine", content_type="text/plain")
        delete_files(engine, place.store, actions.status(engine, NAME))
        assert keys(place.store) == [*notes, "other/images/000000/notes.txt"]
        assert sorted(place.store.names(NAME)) == notes
        place.store.delete(f"{made}jpg")  # else the folder, which is nobody's now, holds an unknown image
        delete_files(engine, place.store, actions.status(engine, NAME))

    def test_emptied_folders_go(self, engine: Engine, tmp_path: Path) -> None:
        place = Place(str(tmp_path / "output"), S3Options())
        batch = unclaimed(engine, place)
        claim(engine, place.store, batch.id, NAME)
        render(engine, place.store, batch)
        delete_files(engine, place.store, actions.status(engine, NAME))
        assert list((tmp_path / "output").iterdir()) == []

    def test_links_stay_and_so_does_what_they_point_to(self, engine: Engine, tmp_path: Path) -> None:
        place = Place(str(tmp_path / "output"), S3Options())
        batch = unclaimed(engine, place)
        claim(engine, place.store, batch.id, NAME)
        render(engine, place.store, batch)
        (tmp_path / "diary").mkdir()
        diary = tmp_path / "diary" / f"000000001-00000.{'0' * 12}.png"
        diary.write_text("mine")
        folder = tmp_path / "output" / NAME
        (folder / "images" / "loop").symlink_to("..")
        (folder / "images" / "000001").symlink_to(diary.parent)
        (folder / "images" / "000000" / diary.name).symlink_to(diary)
        delete_files(engine, place.store, actions.status(engine, NAME))
        assert (diary.read_text(), keys(place.store)) == ("mine", [])
        assert sorted(place.store.names(NAME)) == [
            f"{NAME}/images/000000/{diary.name}",
            f"{NAME}/images/000001/",
            f"{NAME}/images/loop/",
        ]

    def test_nothing_of_another_installation_goes(self, engine: Engine, place: Place) -> None:
        batch = unclaimed(engine, place)
        claim(engine, place.store, batch.id, NAME)
        made = render(engine, place.store, batch)
        give_to_another(place.store, NAME)
        with pytest.raises(ForeignOutputError, match="postgresql://elsewhere/theirs on elsewhere"):
            delete_files(engine, place.store, actions.status(engine, NAME))
        assert keys(place.store) == made

    def test_what_was_cut_off_goes_on(
        self, engine: Engine, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = unclaimed(engine, place, 4)
        store = place.store
        claim(engine, store, batch.id, NAME)
        render(engine, store, batch)
        delete, left = type(store).delete, iter(range(2))

        def cut_off(self: ObjectStore, key: str) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            delete(self, key)

        monkeypatch.setattr(type(store), "delete", cut_off)
        with pytest.raises(KeyboardInterrupt):
            delete_files(engine, store, actions.status(engine, NAME))
        monkeypatch.undo()
        assert len(keys(store)) == 2
        delete_files(engine, store, actions.status(engine, NAME))
        assert list(store.names("")) == []


class TestTamperedKeys:
    """What somebody changed in the database must not cost an image."""

    @pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "other/images/000000/x.png", ""])
    def test_the_real_image_is_not_swept(self, engine: Engine, place: Place, key: str) -> None:
        batch = unclaimed(engine, place)
        claim(engine, place.store, batch.id, NAME)
        made = render(engine, place.store, batch)
        change(engine, "UPDATE images SET key = :key WHERE ordinal = 0", key=key)
        assert not any(sweep_batch(engine, place.store, batch.id, older_than=timedelta(seconds=-5)))
        assert keys(place.store) == made


class TestMarker:
    """A folder that held images and lacks its marker is not the folder that it was."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place(str(tmp_path / "output"), S3Options())

    @pytest.fixture
    def _rendered(self, engine: Engine, place: Place) -> None:
        """A batch of this version."""
        batch = unclaimed(engine, place)
        store = open_output(engine, place.output, place.options)
        claim(engine, store, batch.id, NAME)
        render(engine, store, batch)

    def test_a_fresh_folder_is_made(self, engine: Engine, place: Place, tmp_path: Path) -> None:
        open_output(engine, place.output, place.options).put("a", b"1", content_type="text/plain")
        assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [MARKER, "a"]

    @pytest.mark.usefixtures("_rendered")
    def test_an_unmounted_share_is_not_written_to(self, engine: Engine, place: Place, tmp_path: Path) -> None:
        store = open_output(engine, place.output, place.options)
        (tmp_path / "output").rename(tmp_path / "share")
        (tmp_path / "output").mkdir()
        for verb in (
            lambda: store.put("a", b"1", content_type="text/plain"),
            lambda: open_output(engine, place.output, place.options),
            lambda: find_output(engine, place.output, place.options).get("a"),
        ):
            with pytest.raises(
                OutputGoneError, match=r"is empty, but it held images before: is the share mounted\?"
            ):
                verb()
        assert list((tmp_path / "output").iterdir()) == []
        (tmp_path / "output").rmdir()
        (tmp_path / "share").rename(tmp_path / "output")
        store.put("a", b"1", content_type="text/plain")

    def test_an_output_that_held_nothing_is_made_anew(
        self, engine: Engine, place: Place, tmp_path: Path
    ) -> None:
        open_output(engine, place.output, place.options)
        (tmp_path / "output" / MARKER).unlink()
        (tmp_path / "output").rmdir()
        anew = open_output(engine, place.output, place.options)
        assert (tmp_path / "output" / MARKER).is_file()
        anew.put("a", b"1", content_type="text/plain")
        assert anew.get("a") == b"1"

    def test_one_of_an_earlier_version_is_known_by_its_images(
        self, engine: Engine, place: Place, tmp_path: Path
    ) -> None:
        render(engine, place.store, unclaimed(engine, place))
        (tmp_path / "output").rename(tmp_path / "share")
        with pytest.raises(OutputGoneError, match="holds none of the images that were written there"):
            open_output(engine, place.output, place.options)
        assert not (tmp_path / "output").exists()
        (tmp_path / "share").rename(tmp_path / "output")
        open_output(engine, place.output, place.options)
        assert (tmp_path / "output" / MARKER).is_file()

    @pytest.mark.usefixtures("_rendered")
    def test_another_share_in_its_place_is_noticed(
        self, engine: Engine, another: Engine, place: Place, tmp_path: Path
    ) -> None:
        (tmp_path / "output").rename(tmp_path / "share")
        open_output(another, place.output, place.options)
        with pytest.raises(OutputGoneError, match="is the right share mounted"):
            open_output(engine, place.output, place.options)


def test_a_missing_object_stays_missing_where_the_marker_is(engine: Engine, tmp_path: Path) -> None:
    store = open_output(engine, str(tmp_path / "output"), S3Options())
    with pytest.raises(MissingObjectError):
        store.get("a")
