"""Cards: the package's, the user's, and what is wrong with them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.policy import safety_label_thresholds
from models.catalogue import card
from models.catalogue.catalogue import Catalogue
from models.catalogue.samplers import SAMPLERS, viewer_name
from models.errors import ModelError, UnknownModelError


def _add_card(models_dir: Path, text: str, name: str = "own.toml") -> Path:
    folder = models_dir / "cards"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_ships_the_tiny_models_and_says_that_they_draw_noise(catalogue: Catalogue) -> None:
    card = catalogue.get("tiny-random")
    assert (card.width, card.steps, card.guidance_scale, card.prediction_type) == (64, 10, 7.5, "epsilon")
    assert catalogue.get(card.upscaler or "").family == "upscaler"
    assert catalogue.get(card.safety_checker or "").family == "safety-checker"
    assert "noise" in card.limits
    assert "random" in card.limits


def test_finds_ids_and_aliases_in_any_case(catalogue: Catalogue) -> None:
    assert catalogue.get(" Tiny-Random ") is catalogue.get("tiny")
    assert catalogue.ids_and_aliases()["tiny"].id == "tiny-random"


def test_suggests_the_nearest_name(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'tiny-random'"):
        catalogue.get("tiny-randon")
    with pytest.raises(UnknownModelError, match=r"There are .*sd-v1-4, .*tiny-random"):
        catalogue.get("zzz")


def test_reads_a_users_card(tmp_path: Path, card_text: Callable[..., str]) -> None:
    _add_card(tmp_path, card_text(aliases=["mine"], precision="bfloat16"))
    card = Catalogue.load(tmp_path).get("mine")
    assert (card.id, card.guidance_scale, card.precision) == ("own", 7.0, "bfloat16")
    assert card.samplers == ("euler", "ddim")
    assert card.builder is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 65}, "width 65 must be a multiple of 8"),
        ({"height": 512}, "height 512 must be"),
        ({"width": None}, "needs width"),
        ({"steps": "ten"}, "steps = 'ten' is not a positive whole number"),
        ({"steps": True}, "steps = True is not"),
        ({"sampler": "heun"}, "'heun' is not one of its samplers"),
        ({"samplers": ["euler", "fast"]}, "unknown sampler 'fast'"),
        ({"samplers": [1]}, "is not a list of texts"),
        ({"titel": "T"}, "unknown field 'titel'; did you mean 'title'"),
        ({"license": None}, "'license' is missing"),
        ({"family": "text"}, "is not one of 'text2image'"),
        ({"prediction_type": "v"}, "is not one of 'epsilon'"),
        ({"source": "../elsewhere"}, "must be the name of a folder"),
        ({"source": ".."}, "must be the name of a folder"),
        ({"size_multiple": 4}, "must be a multiple of vae_factor"),
        ({"upscaler": "nothing"}, "upscaler 'nothing' is not the id of a card of the family upscaler"),
        ({"safety_checker": "tiny-random"}, "is not the id of a card of the family safety-checker"),
        ({"aliases": ["TINY"]}, "the name 'TINY' is taken by"),
        ({"guidance_scale": "7"}, "is not a number of 0 or more"),
        ({"id": "a b"}, "id 'a b' must be letters"),
        ({"modes": ["paint"]}, "unknown mode 'paint'; there are text2image"),
        ({"strength": 1.5}, "strength 1.5 must be above 0 and at most 1"),
        ({"noise_level": 400}, "noise_level 400 is above max_noise_level 350"),
        ({"sources": ["https://host/a/b"]}, "must be OWNER/NAME or OWNER/NAME@COMMIT"),
        ({"sources": ["a/b@main"]}, "a commit being 40 hexadecimal digits"),
        ({"withdrawn": ["a"]}, "'a' must be OWNER/NAME"),
        ({"path": "/a/b"}, "source and builder must be left out"),
        ({"path": "a/b", "source": None}, "path must be absolute, not 'a/b'"),
        ({"clip": "tiny-random"}, "is not the id of a card of the family clip"),
        ({"decoder": "tiny-random"}, "is not the id of a card of the family decoder"),
        ({"base": "tiny-random-x4"}, "is not the id of a card of the family text2image"),
        ({"family": "lora"}, "a LoRA needs base"),
        ({"concepts": ["gore"]}, "a model of the family text2image has no concepts"),
        ({"labels": ["gore"], "thresholds": ["gore=1"]}, "family text2image has no labels or thresholds"),
        ({"family": "classifier"}, "a model of the family classifier needs labels and thresholds"),
        (
            {"family": "classifier", "labels": ["a"], "thresholds": ["b=1"]},
            "must be LABEL=SCORE; labels are a",
        ),
        ({"family": "classifier", "labels": ["a"], "thresholds": ["a"]}, "threshold 'a' must be LABEL=SCORE"),
        ({"family": "classifier", "labels": ["a"], "thresholds": ["a=0"]}, "needs a score from 0.001 to 1"),
        ({"family": "classifier", "labels": ["a"], "thresholds": ["a=1e-1"]}, "needs a score from 0.001"),
        ({"family": "classifier", "labels": ["a,b"], "thresholds": ["a,b=1"]}, "none of them , : or ="),
        ({"family": "classifier", "labels": ["a", "a"], "thresholds": ["a=1"]}, "must each be named once"),
        ({"family": "classifier", "labels": [" a"], "thresholds": [" a=1"]}, "no spaces around them"),
        (
            {"id": "content-safety", "family": "classifier", "labels": ["a"], "thresholds": ["a=1"]},
            "id 'content-safety' stands for the content-safety service",
        ),
        ({"concepts": "gore"}, "is not a list of texts"),
        ({"concepts": ["gore", "gore"]}, "there are two concepts 'gore'"),
        ({"concepts": ["gore", "3"]}, "concept '3' must have a name, as numbers stand for concepts"),
        ({"concepts": [""]}, "concept '' must be a name of 1 to 60 printable characters"),
    ],
)
def test_says_what_is_wrong_with_a_card(
    tmp_path: Path, card_text: Callable[..., str], fields: dict[str, object], message: str
) -> None:
    path = _add_card(tmp_path, card_text(**fields))
    with pytest.raises(ModelError, match=message) as error:
        Catalogue.load(tmp_path)
    assert str(path) in str(error.value)


def test_says_all_that_is_wrong_with_a_card_misspelt_fields_first(
    tmp_path: Path, card_text: Callable[..., str]
) -> None:
    path = _add_card(tmp_path, card_text(steps=0, license=None, licence="CC0", title=1, clip=[]))
    with pytest.raises(ModelError) as error:
        Catalogue.load(tmp_path)
    assert str(error.value) == (
        f"{path}: unknown field 'licence'; did you mean 'license'?; title = 1 is not a text; "
        "the field 'license' is missing; and 2 more"
    )


def test_says_that_a_card_is_no_toml(tmp_path: Path) -> None:
    _add_card(tmp_path, "id = ")
    with pytest.raises(ModelError, match="can't be read as TOML"):
        Catalogue.load(tmp_path)


def test_every_sampler_has_the_name_that_viewers_know() -> None:
    assert viewer_name("euler_a") == "Euler a"
    assert viewer_name("dpmpp_2m_karras") == "DPM++ 2M Karras"
    assert len({viewer_name(name) for name in SAMPLERS}) == len(SAMPLERS) == 8
    with pytest.raises(ValueError, match="no sampler is called 'fast'; there are ddim"):
        viewer_name("fast")


def test_the_light_modules_import_nothing_heavy() -> None:
    script = (
        "import sys, models.catalogue.catalogue, models.catalogue.samplers, models.store.resolve_checkpoint, "
        "models.engine.rendered_image, models.diffusion.token_counter\n"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_names_of_the_service_are_those_that_batches_use() -> None:
    assert card.SERVICE_CHECKERS == safety_label_thresholds.SERVICE_CHECKERS
