"""The tiny random models, built and loaded once."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.diffusion.requests import ImageRequest
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler
from models.runtime.device import Device, pick_device
from models.store.resolve_checkpoint import Checkpoint, resolve
from tests.models import checkpoints


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def catalogue(models_dir: Path) -> Catalogue:
    return Catalogue.load(models_dir)


@pytest.fixture(scope="session")
def device() -> Device:
    return pick_device("cpu")


@pytest.fixture(scope="session")
def tiny_checkpoint(catalogue: Catalogue, models_dir: Path) -> Checkpoint:
    return resolve(catalogue.get("tiny-random"), models_dir)


@pytest.fixture(scope="session")
def upscaler_checkpoint(catalogue: Catalogue, models_dir: Path) -> Checkpoint:
    return resolve(catalogue.get("tiny-random-x4"), models_dir)


@pytest.fixture(scope="session")
def safety_checkpoint(catalogue: Catalogue, models_dir: Path) -> Checkpoint:
    return resolve(catalogue.get("tiny-random-safety"), models_dir)


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Checkpoint, device: Device) -> StableDiffusion:
    return StableDiffusion.load(tiny_checkpoint, device)


@pytest.fixture(scope="session")
def upscaler(upscaler_checkpoint: Checkpoint, device: Device) -> Upscaler:
    return Upscaler.load(upscaler_checkpoint, device)


@pytest.fixture
def copied(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    """A copy of the tiny checkpoint that a test may damage."""
    folder = tmp_path / tiny_checkpoint.card.source
    shutil.copytree(tiny_checkpoint.path, folder)
    return Checkpoint(tiny_checkpoint.card, folder, tiny_checkpoint.revision, tiny_checkpoint.digest)


@pytest.fixture(scope="session")
def image() -> Callable[..., ImageRequest]:
    """A factory of requests; what isn't given is a 64 px picture of three steps."""

    def make(**given: Any) -> ImageRequest:
        defaults: dict[str, Any] = {
            "prompt": "a red bird on a tree",
            "width": 64,
            "height": 64,
            "steps": 3,
            "guidance_scale": 7.5,
            "sampler": "ddim",
            "seed": 1,
        }
        return ImageRequest(**(defaults | given))

    return make


@pytest.fixture(scope="session")
def card_text() -> Callable[..., str]:
    """A factory of the TOML of a user's text-to-image card; a value of None leaves the field out."""

    def make(**given: object) -> str:
        fields: dict[str, object] = {
            "id": "own",
            "title": "Own",
            "family": "text2image",
            "summary": "A test.",
            "license": "CC0",
            "limits": "All.",
            "source": "own-folder",
            "modes": ["text2image"],
            "width": 64,
            "height": 64,
            "size_multiple": 8,
            "min_size": 64,
            "max_size": 256,
            "vae_factor": 8,
            "sampler": "euler",
            "samplers": ["euler", "ddim"],
            "steps": 4,
            "guidance_scale": 7,
        }
        rows = (fields | given).items()
        return "".join(f"{name} = {_toml(value)}\n" for name, value in rows if value is not None)

    return make


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.fixture(scope="session")
def tiny_card(catalogue: Catalogue) -> Card:
    return catalogue.get("tiny-random")


@pytest.fixture(scope="session")
def load(models_dir: Path, device: Device) -> Callable[[str], StableDiffusion]:
    """Loads a system of `checkpoints`, each once."""
    loaded: dict[str, StableDiffusion] = {}

    def get(system: str) -> StableDiffusion:
        if system not in loaded:
            loaded[system] = StableDiffusion.load(checkpoints.checkpoint(system, models_dir), device)
        return loaded[system]

    return get
