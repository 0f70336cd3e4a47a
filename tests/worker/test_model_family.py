"""A model family in one module: registered, it is loaded by the card's checkpoint and served from end to end."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.catalogue.catalogue import Catalogue
from models.families import registry
from models.store.resolve_checkpoint import resolve
from tests.worker.conftest import CARD
from tests.worker.contexts import images_of, render
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache

MODULE = '''
from dataclasses import replace

from models.families.registry import FAMILIES
from models.families.stable_diffusion import StableDiffusion


class Inverted(StableDiffusion):
    """A model whose pictures are negatives, and that takes no pictures."""

    @classmethod
    def serves(cls, card, pipeline_class):
        return pipeline_class == "InvertedPipeline"

    def check(self, request):
        if request.image is not None:
            raise ValueError("this model takes no picture")
        return super().check(request)

    def finish(self, request, image):
        return replace(image, pixels=255 - image.pixels)


FAMILIES.insert(0, Inverted)
'''


@pytest.fixture
def inverted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The family in a module of its own."""
    (tmp_path / "inverted_family.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "FAMILIES", list(registry.FAMILIES))
    import_module("inverted_family")
    yield
    del sys.modules["inverted_family"]


@pytest.fixture
def models_dir(context: WorkerContext, tmp_path: Path) -> Path:
    """A models folder with `tiny-random` and the same checkpoint as one of another pipeline class."""
    folder, shared = tmp_path / "models", context.settings.models_path
    (folder / "cards").mkdir(parents=True)
    for card in Catalogue.load(shared).cards():
        if card.builder == "random":
            shutil.copytree(resolve(card, shared).path, folder / card.source)
    shutil.copytree(folder / "tiny-random", folder / "inverted")
    index = folder / "inverted" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "InvertedPipeline"}))
    card = CARD.format(id="inverted", source="inverted", checker="tiny-random-safety")
    (folder / "cards" / "inverted.toml").write_text(card)
    return folder


def _pixels(context: WorkerContext, key: str) -> np.ndarray:
    return np.array(Image.open(Path(context.settings.output) / key))


@pytest.mark.usefixtures("inverted")
def test_a_family_in_one_module_is_served(context: WorkerContext, models_dir: Path, tmp_path: Path) -> None:
    settings = context.settings.model_copy(update={"models_dir": models_dir})
    worker = replace(context, settings=settings, model_cache=ModelCache(settings, 0))
    row = {"prompt": "a red fox", "steps": 2, "seed": 7}
    batch = render(
        worker,
        tmp_path,
        [row | {"model": "tiny-random"}, row | {"model": "inverted"}],
        safety="flag",
        watermark="off",
    )
    usual, negative = images_of(worker.engine, batch)
    assert (usual["model"], negative["model"]) == ("tiny-random", "inverted")
    assert np.array_equal(_pixels(worker, usual["key"]), 255 - _pixels(worker, negative["key"]))


def test_without_it_the_checkpoint_is_one_of_stable_diffusion(
    context: WorkerContext, models_dir: Path
) -> None:
    checkpoint = resolve(Catalogue.load(models_dir).get("inverted"), models_dir)
    assert registry.family_of(checkpoint).__name__ == "StableDiffusion"
