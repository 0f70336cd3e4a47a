import re
from pathlib import Path

import pytest

from jobs.errors import ManifestError, UsageError
from jobs.manifest import KNOWN_COLUMNS, Reject, parse_overrides, parse_renames
from jobs.manifest.columns.header import check_header
from jobs.manifest.columns.spelling import suggest
from tests.jobs.manifest.helpers import read_bytes

MISSPELT = {
    "promt": "prompt",
    "prompts": "prompt",
    "Prmopt": "prompt",
    "promptt": "prompt",
    "text_prompt": "prompt",
    "stpes": "steps",
    "step": "steps",
    "num_inference_steps": "steps",
    "guidence_scale": "guidance_scale",
    "guidancescale": "guidance_scale",
    "guidence_sclae": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "CFG Scale": "guidance_scale",
    "cfg": "guidance_scale",
    "negative-prompt": "negative_prompt",
    "Negative Prompt": "negative_prompt",
    "negativ_prompt": "negative_prompt",
    "neg_prompt": "negative_prompt",
    "width_": "width",
    "widht": "width",
    "hieght": "height",
    "heigth": "height",
    "modle": "model",
    "models": "model",
    "sampelr": "sampler",
    "scheduler": "sampler",
    "sampler_name": "sampler",
    "sede": "seed",
    "seeds": "seed",
    "num_image": "num_images",
    "num-images": "num_images",
    "n_iter": "num_images",
    "init_img": "init_image",
    "init_imag": "init_image",
    "mask-image": "mask_image",
    "strenght": "strength",
    "denoising_strength": "strength",
    "up_scale": "upscale",
    "noise-level": "noise_level",
    "tennant": "tenant",
}
ORDINARY = [
    *["Category", "Challenge", "Note", "class", "label", "caption", "caption_id", "text", "title", "source"],
    *["model_year", "style", "size", "weight", "sample", "sample_id", "mode", "speed", "image", "image_id"],
    *["main_image", "last_image", "scale", "need", "eight", "with", "prompt_id", "prompt_2", "prompt_hash"],
    *[
        "uid",
        "idx",
        "_id",
        "key",
        "url",
        "split",
        "score",
        "aesthetic",
        "author",
        "date",
        "language",
        "noise",
    ],
    *[
        "level",
        "state",
        "stage",
        "stops",
        "feed",
        "side",
        "tent",
        "tokens",
        "template",
        "time",
        "topic",
        "",
        "0",
    ],
    *["Unnamed: 0", "类别", "étiquette", "promptitude", "seedling", "guide", "widget", "weighted", "tags"],
]


@pytest.mark.parametrize(("header", "meant"), MISSPELT.items())
def test_a_misspelt_column_is_recognised(header: str, meant: str) -> None:
    assert suggest(header, KNOWN_COLUMNS) == meant


@pytest.mark.parametrize("header", ORDINARY)
def test_an_ordinary_column_is_left_alone(header: str) -> None:
    assert suggest(header, KNOWN_COLUMNS) is None


def test_overrides_are_read() -> None:
    assert parse_overrides(["steps=4", "MODEL=sd15", "negative_prompt=a=b"]) == {
        "steps": "4",
        "model": "sd15",
        "negative_prompt": "a=b",
    }


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("steps", "write it as --set column=value"),
        ("=4", "write it as"),
        ("prompt=x", "differs from row to row"),
        ("id=x", "differs from row to row"),
        ("stpes=4", "did you mean 'steps'"),
        ("cfg_scale=4", "did you mean 'guidance_scale'"),
        ("label=4", "'label' is not a column"),
        ("colour=red", "'colour' is not a column that can be named here; there are depth_image, "),
        ("tenant=a\0", "NUL"),
        ("tenant=\udcff", "UTF-8"),
    ],
)
def test_an_override_that_cant_be_says_why(pair: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_overrides([pair])


def test_an_override_is_given_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_overrides(["steps=4", "steps=5"])


def test_renames_are_read() -> None:
    assert parse_renames(["prompt=Caption", "id=Row=Nr"]) == {"prompt": "Caption", "id": "Row=Nr"}


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["promt=Caption"], "did you mean 'prompt'"),
        (["prompt="], "name the header"),
        (["prompt"], "write it as --map column=Header"),
        (["prompt=a", "prompt=b"], "mapped twice"),
        (["prompt=a", "id=a"], "mapped twice"),
    ],
)
def test_a_rename_that_cant_be_says_why(pairs: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_renames(pairs)


@pytest.mark.parametrize(
    ("names", "renames", "words"),
    [
        (
            ["Caption", "label"],
            {},
            r"no 'prompt' column. The columns are: Caption, label. .*--map prompt=Column",
        ),
        (["prompt", "label", "label"], {}, "'label' twice"),
        (["prompt", "PROMPT"], {}, "'prompt' and 'PROMPT' are both prompt"),
        (["caption", "x"], {"prompt": "Captoin"}, "no such column.*Did you mean 'caption'"),
        (["prompt", "a\0b"], {}, "NUL"),
        (["stpes"], {}, "no 'prompt' column"),
    ],
)
def test_a_header_that_no_row_can_be_read_under(
    names: list[str], renames: dict[str, str], words: str
) -> None:
    with pytest.raises(ManifestError, match=f"^m.csv: .*{words}"):
        check_header(names, renames, "m.csv")


@pytest.mark.parametrize("mark", ["^", ":", ";", "~", "\t", "|"])
def test_a_header_that_something_else_parts(mark: str) -> None:
    words = re.escape(f"looks parted by {mark!r}: say --delimiter {mark!r}, or separate cells")
    for renames, prompt in (({}, "Prompt"), ({"prompt": "Caption"}, "Caption")):
        with pytest.raises(ManifestError, match=words) as caught:
            check_header([f"{prompt}{mark}seed"], renames, "m.csv", is_table=True)
        assert "did you mean" not in str(caught.value).lower()


@pytest.mark.parametrize("header", ["my (prompt)", "caption: en", "product"])
def test_a_header_that_nothing_parts(header: str) -> None:
    with pytest.raises(ManifestError, match="there is no 'prompt' column") as caught:
        check_header([header], {}, "m.csv", is_table=True)
    assert "did you mean 'product'" not in str(caught.value).lower()


def test_a_misspelt_prompt_is_left_to_the_rows(tmp_path: Path) -> None:
    rejected = read_bytes(tmp_path, "m.csv", b"promt,label\na fox,red\na bird,blue\n")
    assert [item.line for item in rejected] == [2, 3]
    for item in rejected:
        assert isinstance(item, Reject)
        assert "did you mean 'prompt'" in item.reason
