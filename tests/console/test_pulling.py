"""`nightmill models pull`, from a hub over HTTP."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.catalogue.catalogue import Catalogue
from models.store.resolve_checkpoint import resolve
from tests.console.shop import CARD, CHECKER, Shop
from tests.hub import COMMIT, start_hub


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, shared_models: Path) -> Path:
    """The tiny checkpoint as people publish them: with pickles, variants, single files and a safety checker."""
    catalogue = Catalogue.load(shared_models)
    folder = tmp_path_factory.mktemp("repository") / "tiny"
    shutil.copytree(resolve(catalogue.get("tiny"), shared_models).path, folder)
    (folder / "nightmill-revision.txt").unlink()
    safety = resolve(catalogue.get("tiny-random-safety"), shared_models).path
    shutil.copytree(safety, folder / "safety_checker")
    (folder / "feature_extractor").mkdir()
    preprocessor = "preprocessor_config.json"
    (folder / "safety_checker" / preprocessor).rename(folder / "feature_extractor" / preprocessor)
    (folder / "safety_checker" / "nightmill-revision.txt").unlink()
    for name in ("unet/diffusion_pytorch_model.bin", "v1-pruned.safetensors", "README.md", "v1.ckpt"):
        (folder / name).write_bytes(b"not for us")
    weights = folder / "unet" / "diffusion_pytorch_model"
    shutil.copy(f"{weights}.safetensors", f"{weights}.non_ema.safetensors")
    return folder


@pytest.fixture
def shop(tmp_path: Path, repository: Path) -> Iterator[Shop]:
    with start_hub() as hub:
        hub.repositories["lab/tiny"] = repository
        yield Shop(tmp_path, hub)


def test_pulls_what_the_pipeline_needs_and_locks_it(shop: Shop) -> None:
    shop.card(CARD, f'sources = ["lab/tiny@{COMMIT}"]', 'safety_checker = "lab-safety"')
    shop.card(CHECKER, 'sources = ["lab/tiny"]', 'parts = ["safety_checker", "feature_extractor"]', name="s")
    pulled = shop("pull", "lab", "--json", HF_TOKEN="hf_secretsecret")
    assert (pulled.code, [entry["id"] for entry in pulled.json]) == (0, ["lab", "lab-safety"])
    assert pulled.json[0]["revision"] == pulled.json[1]["revision"] == COMMIT
    names = {
        path.relative_to(shop.models).as_posix() for path in shop.models.glob("lab*/**/*") if path.is_file()
    }
    assert {"lab/model_index.json", "lab/unet/diffusion_pytorch_model.safetensors"} <= names
    assert {
        "lab-safety/config.json",
        "lab-safety/model.safetensors",
        "lab-safety/preprocessor_config.json",
    } <= names
    assert not [
        name for name in names if name.endswith((".bin", ".ckpt", "non_ema.safetensors", "README.md"))
    ]
    assert not [name for name in names if "safety_checker" in name and "/.cache/" not in name]
    assert "Bearer hf_secretsecret" in shop.hub.tokens
    assert "hf_secretsecret" not in pulled.out + pulled.err + (shop.models / "nightmill.lock").read_text()
    checkpoint = resolve(Catalogue.load(shop.models).get("lab"), shop.models)
    assert (checkpoint.revision, checkpoint.digest) == (COMMIT, pulled.json[0]["digest"])

    lock = json.loads((shop.models / "nightmill.lock").read_text())["models"]["lab"]
    unet = shop.models / "lab" / "unet" / "diffusion_pytorch_model.safetensors"
    assert lock["source"] == "lab/tiny"
    assert lock["files"]["unet/diffusion_pytorch_model.safetensors"] == {
        "sha256": hashlib.sha256(unet.read_bytes()).hexdigest(),
        "size": unet.stat().st_size,
    }

    shop.hub.requests.clear()
    again = shop("pull", "lab", "--json")
    assert [entry["is_new"] for entry in again.json] == [False, False]
    assert shop.hub.requests == []


def test_locked_pulls_only_what_the_lock_names(shop: Shop) -> None:
    shop.card(CARD, f'sources = ["lab/tiny@{COMMIT}"]', 'safety_checker = "lab-safety"')
    shop.card(CHECKER, 'sources = ["lab/tiny"]', 'parts = ["safety_checker", "feature_extractor"]', name="s")
    refused = shop("pull", "lab", "--locked")
    assert (refused.code, "does not name lab, lab-safety; nothing was pulled" in refused.err) == (1, True)
    assert not (shop.models / "lab").exists()
    assert shop("pull", "lab").code == 0
    for name in ("lab", "lab-safety"):
        shutil.rmtree(shop.models / name)
    before = (shop.models / "nightmill.lock").read_bytes()
    again = shop("pull", "lab", "--locked", "--json")
    assert (again.code, [entry["is_new"] for entry in again.json]) == (0, [True, True])
    assert (shop.models / "nightmill.lock").read_bytes() == before

    lock = json.loads(before)
    lock["models"]["lab"]["files"]["model_index.json"]["sha256"] = "0" * 64
    (shop.models / "nightmill.lock").write_text(json.dumps(lock))
    shutil.rmtree(shop.models / "lab")
    other = shop("pull", "lab", "--locked")
    assert (other.code, "model_index.json: has the SHA-256" in other.err) == (1, True)
    assert not (shop.models / "lab").exists()


def test_goes_from_a_dead_repository_to_its_mirror_and_never_asks_a_withdrawn_one(shop: Shop) -> None:
    shop.card(CARD, f'sources = ["dead/tiny@{COMMIT}", "lab/tiny"]')
    pulled = shop("pull", "old/gone")
    assert pulled.code == 0
    assert "old/gone was withdrawn from the hub" in pulled.err
    assert "dead/tiny is withdrawn, or private" in pulled.err
    assert len(shop.hub.asked("dead/tiny")) == 1
    assert not shop.hub.asked("old/gone")


def test_says_that_no_source_is_left(shop: Shop) -> None:
    shop.card(CARD, f'sources = ["dead/tiny", "lab/tiny@{"f" * 40}"]')
    pulled = shop("pull", "lab")
    assert (pulled.code, pulled.out) == (1, "")
    assert "dead/tiny is withdrawn, or private" in pulled.err
    assert "lab/tiny doesn't hold the pinned commit any more" in pulled.err
    assert "Traceback" not in pulled.err
    assert not (shop.models / "lab").exists()


def test_says_that_the_hub_can_t_be_reached_or_may_not_be_asked(shop: Shop) -> None:
    shop.card(CARD, 'sources = ["lab/tiny"]')
    unreachable = shop("pull", "lab", HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable.code == 1
    assert "can't get lab/tiny from the hub" in unreachable.err
    offline = shop("pull", "lab", HF_HUB_OFFLINE="1")
    assert (offline.code, "HF_HUB_OFFLINE is set" in offline.err) == (1, True)
    assert "Traceback" not in unreachable.err + offline.err
    assert shop.hub.requests == []


def test_refuses_pickles_and_takes_the_variant_that_is_safe(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(shop.hub.repositories["lab/tiny"], folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for file in list(folder.glob("*/*model.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    shop.hub.repositories["lab/tiny"] = folder
    shop.card(CARD, 'sources = ["lab/tiny"]')
    pulled = shop("pull", "lab")
    assert pulled.code == 1
    assert "holds pickled weights only in unet" in pulled.err
    shop.card(CARD, 'sources = ["lab/tiny"]', 'variant = "fp16"')
    assert shop("pull", "lab").code == 0
    assert (shop.models / "lab" / "unet" / weights.name).is_file()


def test_refuses_what_is_not_what_the_hub_says(shop: Shop) -> None:
    shop.card(CARD, 'sources = ["lab/tiny"]')
    shop.hub.lies = True
    pulled = shop("pull", "lab")
    assert pulled.code == 1
    assert "came other than the hub says" in pulled.err
    assert not list(shop.models.glob("*lab"))


def test_says_that_there_is_no_room_before_it_fetches(shop: Shop) -> None:
    shop.card(CARD, 'sources = ["lab/tiny"]')
    shop.hub.states_bytes = 10**15
    pulled = shop("pull", "lab")
    assert (pulled.code, "GB are needed for lab/tiny" in pulled.err) == (1, True)
    assert not shop.hub.asked("resolve")


def test_says_that_terms_are_to_be_accepted(shop: Shop) -> None:
    shop.card(CARD, 'sources = ["lab/gated"]')
    shop.hub.gated.add("lab/gated")
    pulled = shop("pull", "lab")
    assert (pulled.code, "lab/gated asks for its terms to be accepted" in pulled.err) == (1, True)


def test_goes_on_after_an_interruption(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(shop.hub.repositories["lab/tiny"], folder)
    large = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({"weights": np.arange(8_000_000, dtype=np.float32)}, large)
    shop.hub.repositories["lab/tiny"] = folder
    shop.hub.stalls = "vae/diffusion_pytorch_model.safetensors"
    shop.card(CARD, 'sources = ["lab/tiny"]')
    process = shop.start("pull", "lab")
    assert shop.hub.is_stalling.wait(150)
    _wait_for((shop.models / ".pulling-lab" / "unet" / large.name).is_file)
    process.kill()
    process.wait()
    assert not (shop.models / "lab").exists()
    shop.hub.requests.clear()
    shop.hub.go_on.set()
    assert shop("pull", "lab").code == 0
    fetched = {path for method, path, _ in shop.hub.asked("resolve") if method == "GET"}
    assert f"lab/tiny/resolve/{COMMIT}/vae/{large.name}" in fetched
    assert f"lab/tiny/resolve/{COMMIT}/unet/{large.name}" not in fetched
    assert (shop.models / "lab" / large.relative_to(folder)).read_bytes() == large.read_bytes()
    assert not list(shop.models.rglob("*.incomplete")) + list(shop.models.glob(".pulling-*"))


def _wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
