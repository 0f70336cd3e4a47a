"""Models and cards that somebody else made: read within limits, refused with a reason, never waited for."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.catalogue.catalogue import Catalogue
from models.catalogue.read_card import read_card
from models.errors import CheckpointError, ModelError
from models.store.add import add_model
from models.store.digests import _recall
from models.store.lockfile import LOCK_FILE, read_lock
from models.store.resolve_checkpoint import Checkpoint, noted_revision
from models.store.vetting import read_config, vetted_file, vetted_files

DEEP = "[" * 100_000


@pytest.fixture
def own(tmp_path: Path, tiny_checkpoint: Checkpoint) -> Path:
    """A folder of a model, of its user's own."""
    folder = tmp_path / "dog"
    shutil.copytree(tiny_checkpoint.path, folder)
    return folder


def _card(folder: Path, text: str | bytes) -> Path:
    path = folder / "own.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + DEEP, "nested too deeply"),
        ("a." * 100_000 + "a = 1", "more than 16 parts"),
        ("'a' . " * 30 + '"b" = 1', "more than 16 parts"),
        ("[" + "a." * 1_000 + "a]", "more than 16 parts"),
        ("x = " + "9" * 5_000, "can't be read as TOML"),
        ("x = '" + "9" * 2**20 + "'", "over 1,048,576 bytes"),
        (b"id = '\xff'", "can't be read as TOML"),
        ("x" * 100_000 + " = 1", "unknown field"),
    ],
)
def test_cards_are_read_within_limits(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        read_card(_card(tmp_path, text))
    assert len(str(caught.value)) < 1_000


def test_a_number_without_bounds_is_no_size(tmp_path: Path, card_text: Callable[..., str]) -> None:
    for number in ("9" * 4_000, "0x" + "f" * 20_000):
        for field in ("steps", "guidance_scale"):
            lines = [line for line in card_text().splitlines() if not line.startswith(field)]
            with pytest.raises(ModelError, match=rf"{field} = .* is not a"):
                read_card(_card(tmp_path, "\n".join([f"{field} = {number}", *lines])))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_card_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "cards").mkdir()
    odd = tmp_path / "cards" / "odd.toml"
    os.mkfifo(odd) if kind == "pipe" else odd.symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="no regular file"):
        Catalogue.load(tmp_path)


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "unet" / "pipe")


def _device(folder: Path) -> None:
    (folder / "unet" / "zero").symlink_to("/dev/zero")


def _self_link(folder: Path) -> None:
    (folder / "unet" / "again").symlink_to("again")


def _link_up(folder: Path) -> None:
    (folder / "unet" / "up").symlink_to("..")


def _strange_name(folder: Path) -> None:
    (folder / "unet" / os.fsdecode(b"caf\xe9.txt")).touch()


def _deep_config(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text(DEEP)


def _long_config(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text(" " * 2**20 + "{}")


def _index(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _pickle(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(pickle.dumps({"a": [1.0] * 100}))


def _without_weights(folder: Path) -> None:
    save_file({}, folder / "unet" / "diffusion_pytorch_model.safetensors")


def _empty_weights(folder: Path) -> None:
    save_file({"a": np.zeros((0, 4), np.float32)}, folder / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_pipe, "is no regular file"),
        (_device, "link out of the checkpoint's folder"),
        (_self_link, "Too many levels of symbolic links"),
        (_strange_name, r"caf\\udce9.txt: has a name that is not printable"),
        (_deep_config, "nested too deeply"),
        (_long_config, "over 1,048,576 bytes"),
        (_index(unet=[["diffusers"], "UNet2DConditionModel"]), r"unet must be \[library, class\]"),
        (_index(unet=["diffusers", "../../os"]), "which is no class"),
        (_index(unet=["os", "system"]), "only diffusers and transformers may"),
        (_index(unet=["diffusers"]), r"unet must be \[library, class\]"),
        (_index(other=[1, 2]), r"other must be \[library, class\]"),
        (_index(unet="UNet2DConditionModel"), r"unet must be \[library, class\]"),
        (_index(auto_map={"x": "y"}), "remote code"),
        (_pickle, "is no safetensors file, whatever its name"),
        (_without_weights, "holds no weights"),
        (_empty_weights, "holds no weights"),
    ],
)
def test_folders_are_refused_with_a_reason(own: Path, spoil: Callable[[Path], None], words: str) -> None:
    vetted_files(own)
    spoil(own)
    with pytest.raises(CheckpointError, match=words) as caught:
        vetted_files(own)
    str(caught.value).encode()


def test_links_within_a_folder_are_fine(own: Path) -> None:
    before = vetted_files(own)
    _link_up(own)
    (own / "second.safetensors").symlink_to("unet/diffusion_pytorch_model.safetensors")
    assert {*vetted_files(own)} == {*before, own / "second.safetensors"}


def _lora(down: Any, up: Any) -> dict[str, Any]:
    return {"unet.a.lora_A.weight": down, "unet.a.lora_B.weight": up}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (_lora(np.zeros((0, 4), np.float32), np.zeros((4, 0), np.float32)), "holds no weights"),
        (_lora(np.ones((0, 4), np.float32), np.ones((4, 1), np.float32)), "which holds nothing"),
        (_lora(np.ones((10**6, 1), np.float16), np.ones((1, 10**6), np.float16)), "has the rank 1,000,000"),
        (_lora(np.full((2, 4), np.nan, np.float32), np.ones((4, 2), np.float32)), "no finite number"),
        (
            _lora(np.ones((2, 4), np.float32), np.ones((4, 2), np.float32))
            | {"a.alpha": np.float32([np.inf])},
            "no finite",
        ),
        ({"a": np.ones(2, np.float32)}, "holds no LoRA weights"),
    ],
)
def test_loras_are_looked_at_when_they_are_added(tmp_path: Path, weights: dict[str, Any], words: str) -> None:
    file = tmp_path / "own.safetensors"
    save_file(weights, file)
    models = tmp_path / "models"
    with pytest.raises(CheckpointError, match=words):
        add_model(file, id="own", base="tiny", is_lora=True, catalogue=Catalogue.load(models))
    assert not (models / "cards").exists()
    Catalogue.load(models)


def test_a_single_file_that_is_a_pickle_or_cut_off_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({"a": np.ones(100, np.float32)}, whole)
    vetted_file(whole)
    spoilt = tmp_path / "own.safetensors"
    for body in (b"", b"\x80\x04.", pickle.dumps([1.0] * 100), whole.read_bytes()[:-1], b"\xff" * 8 + b"{"):
        spoilt.write_bytes(body)
        with pytest.raises(CheckpointError, match=r"own.safetensors: "):
            vetted_file(spoilt)


@pytest.mark.parametrize("name", ["a\x7fb", "füchse 🦊", "a'b\"c\\d"])
def test_a_path_of_any_text_is_read_back_from_its_card(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    file = tmp_path / name / "own.safetensors"
    save_file(_lora(np.ones((2, 4), np.float32), np.ones((4, 2), np.float32)), file)
    models = tmp_path / "models"
    try:
        add_model(file, id="own", base="tiny", is_lora=True, catalogue=Catalogue.load(models))
    except ModelError as error:
        assert "not printable" in str(error)  # noqa: PT017 - then nothing was added
        assert Catalogue.load(models).ids_and_aliases().get("own") is None
    else:
        assert Catalogue.load(models).get("own").path == str(file)


def test_a_path_that_is_not_utf8_is_refused_before_a_card_is_written(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    file = folder / "own.safetensors"
    save_file(_lora(np.ones((2, 4), np.float32), np.ones((4, 2), np.float32)), file)
    models = tmp_path / "models"
    with pytest.raises(ModelError, match=r"caf\\udce9") as caught:
        add_model(file, id="own", base="tiny", is_lora=True, catalogue=Catalogue.load(models))
    str(caught.value).encode()
    Catalogue.load(models)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        DEEP.encode(),
        b'{"version": 1, "models": ' + DEEP.encode(),
        b'{"version": ' + b"9" * 5_000 + b', "models": {}}',
        b'{"version": 1, "models": {"a": {"source": "", "revision": "", "files": {"f": {"size": 1e999}}}}}',
        b'{"version": 1, "models": []}',
        b'{"version": 1, "models": {"a": 1}}',
        b"null",
    ],
)
def test_a_damaged_lock_is_an_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(text)
    with pytest.raises(ModelError, match=r"nightmill.lock: ") as caught:
        read_lock(tmp_path)
    assert len(str(caught.value)) < 1_000
    (tmp_path / LOCK_FILE).write_bytes(text)
    assert _recall(tmp_path / LOCK_FILE) is not None


def test_a_note_of_any_bytes_is_a_revision(tmp_path: Path) -> None:
    note = tmp_path / "nightmill-revision.txt"
    note.write_bytes(b"\xff\xfe\0" * 10_000)
    assert len(noted_revision(tmp_path)) <= 64
    assert noted_revision(tmp_path).isprintable()
    note.unlink()
    os.mkfifo(note)
    assert noted_revision(tmp_path) == "local"


def test_a_config_is_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_config(tmp_path / "config.json")
