"""`nightmill models add`, `lock` and `remove`."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from jobs.settings import load_settings
from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError
from models.store.resolve_checkpoint import resolve
from tests.console.conftest import Typed


@pytest.fixture
def own(tmp_path: Path, shared_models: Path) -> Path:
    """A fine-tune of the user's own."""
    folder = tmp_path / "dog"
    shutil.copytree(resolve(Catalogue.load(shared_models).get("tiny"), shared_models).path, folder)
    return folder


@pytest.fixture
def cli(tmp_path: Path) -> Typed:
    """The command line in the test's own process, for what needs no hub."""
    return Typed(load_settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models"), tmp_path)


def test_adds_locks_checks_and_removes_a_model_of_one_s_own(cli: Typed, own: Path) -> None:
    models = cli.folder / "models"
    added = cli("models", "add", str(own), "--id", "dog", "--base", "tiny", "--json")
    assert (added.code, added.json["id"], added.json["source"]) == (0, "dog", "local")
    shown = cli("models", "show", "dog", "--json").json
    assert (shown["base"], shown["width"], shown["path"]) == ("tiny-random", 64, str(own))
    assert shown["lock"]["digest"] == added.json["digest"]
    before = (models / "nightmill.lock").read_bytes()
    assert cli("models", "lock", "--check").code == 0
    assert cli("models", "lock").code == 0
    assert (models / "nightmill.lock").read_bytes() == before

    file = own / "unet" / "config.json"
    status, text = file.stat(), file.read_text()
    file.write_text(text.replace("\n", " "))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    checked = cli("models", "lock", "--check")
    assert (checked.code, str(file) in checked.err) == (1, True)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in checked.err
    assert hashlib.sha256(text.encode()).hexdigest() in checked.err
    assert (models / "nightmill.lock").read_bytes() == before
    file.touch()
    catalogue = Catalogue.load(models)
    with pytest.raises(
        CheckpointError, match=r"unet/config.json: has the SHA-256 .*nightmill models lock dog"
    ):
        resolve(catalogue.get("dog"), models)
    assert cli("models", "lock", "dog").code == 0
    resolve(catalogue.get("dog"), models)

    asked = cli("models", "remove", "dog")
    assert (asked.code, "say --yes" in asked.err) == (2, True)
    assert cli("models", "remove", "dog", "--yes").code == 0
    assert own.is_dir()
    assert cli("models", "show", "dog").code == 2
    assert json.loads((models / "nightmill.lock").read_text())["models"] == {}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["add", "{own}", "--id", "tiny", "--base", "tiny"], 1, "the name 'tiny' is taken"),
        (["add", "{own}", "--id", "a b", "--base", "tiny"], 1, "id 'a b' must be letters"),
        (["add", "{own}", "--id", "dog", "--base", "nothing"], 2, "no model is called 'nothing'"),
        (["add", "{own}", "--id", "dog", "--base", "tiny-x4"], 1, "must be of text2image"),
        (["add", "{own}", "--id", "dog", "--base", "tiny", "--lora"], 1, "must hold one .safetensors"),
        (["add", "nowhere", "--id", "dog", "--base", "tiny"], 2, "there is no such file"),
        (["add", __file__, "--id", "dog", "--base", "tiny"], 1, "a checkpoint may not bring code"),
        (["pull", "tiny"], 1, "it is built on first use"),
        (["pull", "nothing"], 2, "no model is called 'nothing'"),
        (["lock", "sd15"], 1, "nightmill models pull sd-v1-5"),
        (["lock", "--check", "tiny"], 1, "is not there"),
        (["remove", "sd15", "--yes"], 1, "there is nothing to remove"),
    ],
)
def test_says_what_is_wrong(cli: Typed, own: Path, arguments: list[str], code: int, message: str) -> None:
    ended = cli("models", *[argument.format(own=own) for argument in arguments])
    assert (ended.code, message in ended.err, ended.out) == (code, True, ""), ended.err
    assert "Traceback" not in ended.err
    assert not (cli.folder / "models" / "cards" / "dog.toml").exists()
