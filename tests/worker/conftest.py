"""Models that misbehave in known ways, and a context to work in."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine

from jobs.settings import Settings, load_settings
from models.catalogue.catalogue import Catalogue
from models.store.resolve_checkpoint import resolve
from tests.worker.contexts import worker_context_for
from worker.health import fault_attribution, lane_backoff
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache

CARD = """
id = "{id}"
title = "A test"
family = "text2image"
summary = "A test."
license = "CC0"
limits = "All."
source = "{source}"
modes = ["text2image"]
width = 64
height = 64
size_multiple = 8
min_size = 32
max_size = 256
vae_factor = 8
sampler = "ddim"
samplers = ["ddim", "euler"]
steps = 2
guidance_scale = 7.5
upscaler = "tiny-random-x4"
safety_checker = "{checker}"
"""

CHECKER = """
id = "{id}"
title = "A test"
family = "safety-checker"
summary = "A test."
license = "CC0"
limits = "All."
source = "{id}"
"""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that is doubted is tried again at once."""
    monkeypatch.setattr(lane_backoff, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(fault_attribution, "ALONE_S", 0.0)


@pytest.fixture(scope="session")
def models_folder(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, and beside them ones that flag all, can't judge, lack a decoder, give NaN, give black."""
    folder = tmp_path_factory.mktemp("models-that-misbehave")
    catalogue = Catalogue.load(shared_models)
    for card in catalogue.cards():
        if card.builder == "random":
            shutil.copytree(resolve(card, shared_models).path, folder / card.source)
    (folder / "cards").mkdir()
    _checker(folder, "flags-all", lambda weights: weights["concept_embeds_weights"].fill_(-1))
    _checker(folder, "cannot-tell", lambda weights: weights["visual_projection.weight"].fill_(float("nan")))
    _model(folder, "flagged", "tiny-random", "flags-all")
    _model(folder, "unjudged", "tiny-random", "cannot-tell")
    _model(folder, "no-checker", "tiny-random", None)
    _model(folder, "undecoded", "tiny-random", "tiny-random-safety")
    with (folder / "cards" / "undecoded.toml").open("a") as card:
        card.write('decoder = "taesd"\n')
    _altered(folder, "gives-nan", "unet", lambda weights: weights["conv_out.bias"].fill_(float("nan")))
    _altered(folder, "gives-black", "vae", lambda weights: weights["decoder.conv_out.bias"].fill_(-1e6))
    return folder


@pytest.fixture(scope="session")
def model_cache(models_folder: Path) -> ModelCache:
    """The models of a worker, loaded once for all tests; device batches hold four images."""
    return ModelCache(load_settings(models_dir=models_folder, batch_size=4), 0)


@pytest.fixture
def context(
    settings: Settings, models_folder: Path, model_cache: ModelCache, engine: Engine
) -> Iterator[WorkerContext]:
    """A context on the test's own database; a failed attempt is tried again at once."""
    own = settings.model_copy(update={"models_dir": models_folder, "retry_delay_s": 0})
    with worker_context_for(own, engine, model_cache) as context:
        yield context


def _checker(folder: Path, id: str, change: Callable[[dict[str, Any]], object]) -> None:
    shutil.copytree(folder / "tiny-random-safety", folder / id)
    _alter(folder / id / "model.safetensors", change)
    (folder / "cards" / f"{id}.toml").write_text(CHECKER.format(id=id))


def _model(folder: Path, id: str, source: str, checker: str | None) -> None:
    text = CARD.format(id=id, source=source, checker=checker)
    lines = [line for line in text.splitlines(keepends=True) if checker or "safety_checker" not in line]
    (folder / "cards" / f"{id}.toml").write_text("".join(lines))


def _altered(folder: Path, id: str, part: str, change: Callable[[dict[str, Any]], object]) -> None:
    shutil.copytree(folder / "tiny-random", folder / id)
    _alter(folder / id / part / "diffusion_pytorch_model.safetensors", change)
    _model(folder, id, id, "tiny-random-safety")


def _alter(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
