"""The lock file: what it holds, and what it is compared with."""

import threading
from pathlib import Path

import pytest

from models.catalogue.card import Card
from models.errors import CheckpointError, ModelError
from models.store.digests import FileDigest
from models.store.lockfile import LOCK_FILE, Locked, read_lock, write_lock
from models.store.resolve_checkpoint import Checkpoint, resolve, seal


def _locked(name: str) -> Locked:
    return Locked("lab/tiny", "0" * 40, (FileDigest(name, 3, "ab" * 32),))


def test_what_is_written_is_read_in_any_order_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, ids in ((one, "abc"), (two, "cab")):
        for id in ids:
            write_lock(folder, {id: _locked(id)})
    assert read_lock(one) == {id: _locked(id) for id in "abc"}
    assert (one / LOCK_FILE).read_bytes() == (two / LOCK_FILE).read_bytes()
    write_lock(one, {"b": None})
    assert set(read_lock(one)) == {"a", "c"}
    assert [path.name for path in one.iterdir() if path.name.startswith(f".{LOCK_FILE}.")] == []


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=write_lock, args=(tmp_path, {f"m{number}": _locked("a")}))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_lock(tmp_path)) == 8


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"version": 2, "models": {}}', '{"version": 1, "models": 3}']
)
def test_a_damaged_lock_file_locks_all_out(copied: Checkpoint, text: str) -> None:
    (copied.path.parent / LOCK_FILE).write_text(text)
    with pytest.raises(ModelError, match=rf"{LOCK_FILE}: "):
        resolve(copied.card, copied.path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "note.txt").write_text("new"), "note.txt: is not in nightmill.lock"),
        (
            lambda folder: (folder / "vae/config.json").unlink(),
            "vae/config.json: is missing, but nightmill.lock",
        ),
        (
            lambda folder: (folder / "vae/config.json").write_text("{}"),
            "vae/config.json: has the SHA-256 44136fa3",
        ),
    ],
)
def test_says_which_file_differs(copied: Checkpoint, change: object, message: str) -> None:
    root = copied.path.parent
    write_lock(root, {copied.card.id: seal(copied.card, root)})
    assert resolve(copied.card, root) == copied
    assert callable(change)
    change(copied.path)
    with pytest.raises(CheckpointError, match=message):
        resolve(copied.card, root)


def test_a_model_of_the_package_is_looked_for_in_it(tmp_path: Path) -> None:
    card = Card(
        id="p",
        title="",
        family="clip",
        summary="",
        license="",
        limits="",
        source="no-such-folder",
        builder="package",
    )
    with pytest.raises(
        CheckpointError, match=r"come with nightmill at .*models/shapes/weights/no-such-folder"
    ):
        resolve(card, tmp_path)
