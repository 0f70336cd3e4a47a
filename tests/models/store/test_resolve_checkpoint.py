"""Finding, vetting and digesting a checkpoint's files."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError, ModelError
from models.store.resolve_checkpoint import Checkpoint, resolve


def test_digest_is_over_paths_and_file_digests(copied: Checkpoint) -> None:
    files = {
        path.relative_to(copied.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in copied.path.rglob("*")
        if path.is_file()
    }
    lines = sorted(f"{name}\0{digest}\n" for name, digest in files.items())
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert resolve(copied.card, copied.path.parent).digest == expected == copied.digest


def test_digest_follows_contents_and_names_but_not_hidden_files(copied: Checkpoint) -> None:
    root = copied.path.parent
    (copied.path / ".cache").mkdir()
    (copied.path / ".cache" / "note.py").write_text("hidden")
    assert resolve(copied.card, root).digest == copied.digest
    (copied.path / "README.md").write_text("a")
    first = resolve(copied.card, root).digest
    (copied.path / "README.md").write_text("bc")
    second = resolve(copied.card, root).digest
    (copied.path / "README.md").rename(copied.path / "ABOUT.md")
    assert len({copied.digest, first, second, resolve(copied.card, root).digest}) == 4


def test_files_are_hashed_once_while_size_and_time_stay(copied: Checkpoint) -> None:
    root, file = copied.path.parent, copied.path / "model_index.json"
    before = resolve(copied.card, root)
    stat, text = file.stat(), file.read_text(encoding="utf-8")
    file.write_text(text.replace("\n", " "), encoding="utf-8")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert resolve(copied.card, root) == before
    (root / ".digests.json").write_text("{damaged")
    assert resolve(copied.card, root).digest != before.digest


@pytest.mark.parametrize("memory", ["[]", '{"tiny-random/model_index.json": 5}', "\x00"])
def test_a_damaged_memory_of_digests_is_no_harm(copied: Checkpoint, memory: str) -> None:
    (copied.path.parent / ".digests.json").write_text(memory)
    assert resolve(copied.card, copied.path.parent).digest == copied.digest


def test_revision_is_what_the_download_noted(copied: Checkpoint) -> None:
    assert copied.revision == "random-1"
    (copied.path / "nightmill-revision.txt").unlink()
    assert resolve(copied.card, copied.path.parent).revision == "local"
    notes = copied.path / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "model_index.json.metadata").write_text("0123abcd\nsomething\n")
    assert resolve(copied.card, copied.path.parent).revision == "0123abcd"


def test_says_where_a_missing_checkpoint_is_expected(tmp_path: Path) -> None:
    card = Card(id="own", title="", family="clip", summary="", license="", limits="", source="own-folder")
    with pytest.raises(CheckpointError, match=rf"'own' is not there: .*{tmp_path / 'own-folder'}"):
        resolve(card, tmp_path)


@pytest.mark.parametrize("name", ["a.bin", "unet/a.CKPT", "a.pt", "a.pth", "a.pkl", "unet/model.py", "a.so"])
def test_refuses_pickles_and_code(copied: Checkpoint, name: str) -> None:
    (copied.path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=str(copied.path / name)):
        resolve(copied.card, copied.path.parent)


@pytest.mark.parametrize("name", ["unet/config.json", "tokenizer/tokenizer_config.json", "model_index.json"])
def test_refuses_remote_code(copied: Checkpoint, name: str) -> None:
    file = copied.path / name
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(CheckpointError, match="asks for remote code"):
        resolve(copied.card, copied.path.parent)


def test_refuses_components_of_other_libraries(copied: Checkpoint) -> None:
    file = copied.path / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"unet": ["subprocess", "Popen"]}))
    with pytest.raises(CheckpointError, match="unet would be loaded by 'subprocess'"):
        resolve(copied.card, copied.path.parent)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_refuses_links_out_of_the_folder(copied: Checkpoint, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "outside"
    if kind == "file":
        target.write_text("x")
    else:
        target.mkdir()
    (copied.path / "link").symlink_to(target)
    with pytest.raises(CheckpointError, match="is a link out of"):
        resolve(copied.card, copied.path.parent)


def test_accepts_a_link_within_the_folder(copied: Checkpoint) -> None:
    (copied.path / "link.json").symlink_to(copied.path / "model_index.json")
    assert resolve(copied.card, copied.path.parent).path == copied.path


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_says_that_a_configuration_is_damaged(copied: Checkpoint, text: str) -> None:
    (copied.path / "unet" / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="fetch the checkpoint again"):
        resolve(copied.card, copied.path.parent)


def test_says_that_a_folder_is_no_checkpoint(copied: Checkpoint, tmp_path: Path) -> None:
    (copied.path / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model_index.json"):
        resolve(copied.card, copied.path.parent)
    empty = tmp_path / "models" / copied.card.source
    empty.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"holds no .safetensors"):
        resolve(copied.card, empty.parent)


def test_says_that_it_cannot_build(tmp_path: Path, tiny_card: Card) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="can't write to the models folder"):
        resolve(tiny_card, tmp_path / "file")


_RACER = """
import sys
from pathlib import Path
from models.catalogue.catalogue import Catalogue
from models.store.resolve_checkpoint import resolve
from models.runtime.library_logging import quiet
with quiet():
    from diffusers import StableDiffusionPipeline
folder = Path(sys.argv[1])
card = Catalogue.load(folder).get("tiny-random")
print("ready", flush=True)
sys.stdin.readline()
print(resolve(card, folder).digest)
"""


def test_several_processes_may_build_at_once(
    tmp_path: Path, tiny_card: Card, tiny_checkpoint: Checkpoint
) -> None:
    """This one and another."""
    with subprocess.Popen(
        [sys.executable, "-c", _RACER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as racer:
        assert racer.stdout
        assert racer.stdin
        assert racer.stdout.readline() == "ready\n"
        racer.stdin.write("go\n")
        racer.stdin.flush()
        own = resolve(tiny_card, tmp_path).digest
        digests = [own, racer.communicate()[0].strip()]
    assert digests == [tiny_checkpoint.digest] * 2
    assert not list(tmp_path.glob(".building-*"))


def test_two_builds_are_the_same_bytes(tmp_path: Path, catalogue: Catalogue, models_dir: Path) -> None:
    for card in catalogue.cards():
        if card.builder == "random":
            assert resolve(card, tmp_path).digest == resolve(card, models_dir).digest
