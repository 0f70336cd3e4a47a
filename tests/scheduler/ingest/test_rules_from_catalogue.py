"""From cards to what rows may ask for: upscalers, defaults, and the models that a LoRA fits."""

from pathlib import Path

import pytest

from models.catalogue.catalogue import Catalogue
from scheduler.ingest.rules_from_catalogue import Reading, row_rules

MODEL = """
id = "{id}"
title = "A test"
family = "text2image"
summary = "A test."
license = "CC0"
limits = "All."
source = "{id}"
modes = ["text2image", "image2image"]
width = 64
height = 64
size_multiple = 8
min_size = 64
max_size = 256
vae_factor = 8
sampler = "ddim"
samplers = ["ddim"]
steps = 2
guidance_scale = 7.5
strength = 0.6
{more}
"""
LORA = """
id = "{id}"
title = "A test"
family = "lora"
summary = "A test."
license = "CC0"
limits = "All."
source = "{id}"
base = "{base}"
aliases = ["{id}-alias"]
"""
UPSCALER = (
    MODEL.replace("text2image", "upscaler", 1)
    .replace('["text2image", "image2image"]', '["upscale"]')
    .replace("vae_factor = 8", "vae_factor = 4")
)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Two models of a kind of their own, one tuned from another, one tuned from Stable Diffusion v1."""
    cards = tmp_path / "cards"
    cards.mkdir()
    for id, more in (
        ("first", 'upscaler = "larger"'),
        ("second", ""),
        ("tuned", 'base = "first"'),
        ("dream", 'base = "sd-v1-4"'),
    ):
        (cards / f"{id}.toml").write_text(MODEL.format(id=id, more=more))
    (cards / "larger.toml").write_text(
        UPSCALER.format(id="larger", more="noise_level = 7\nmax_noise_level = 9")
    )
    for id, base in (("ink", "tuned"), ("cat", "sd-v1-5"), ("fog", "sd-2-1")):
        (cards / f"{id}.toml").write_text(LORA.format(id=id, base=base))
    return Catalogue.load(tmp_path)


def test_a_lora_fits_what_has_the_same_root(catalogue: Catalogue) -> None:
    loras = row_rules(catalogue, "first", Reading()).loras
    assert loras["ink"].fits == {"first", "tuned"}
    assert loras["ink"].base == "tuned"
    assert loras["ink-alias"] == loras["ink"]


def test_a_lora_fits_its_generation_of_stable_diffusion(catalogue: Catalogue) -> None:
    loras = row_rules(catalogue, "first", Reading()).loras
    assert {"sd-v1-1", "sd-v1-5", "sd-v1-5-inpainting", "dream"} <= loras["cat"].fits
    assert {"sd-2", "sd-2-1-base", "sd-2-inpainting", "sd-2-depth"} <= loras["fog"].fits
    assert not loras["cat"].fits & loras["fog"].fits
    assert "first" not in loras["cat"].fits | loras["fog"].fits
    assert "sd-x4-upscaler" not in loras["fog"].fits


def test_noise_levels_are_the_upscalers_and_strength_is_the_models(catalogue: Catalogue) -> None:
    models = row_rules(catalogue, "first", Reading()).models
    for name in ("first", "larger"):
        assert (models[name].noise_level, models[name].noise_level_max) == (7, 9)
        assert models[name].upscales == {4}
    assert models["second"].upscales == frozenset()
    assert models["second"].strength == 0.6
    assert models["larger"].modes == {"upscale"}
