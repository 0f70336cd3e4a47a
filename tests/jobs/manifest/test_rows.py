import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ManifestError, UsageError
from jobs.manifest import Reject, Row
from jobs.manifest.seeds import Seeds
from tests.jobs.manifest.helpers import MODELS, only_reject, only_row, read_bytes, rules

DEEP = 100_000


def from_json(folder: Path, **columns: Any) -> list[Row | Reject]:
    return read_bytes(folder, "m.jsonl", json.dumps({"prompt": "a fox"} | columns).encode())


def from_csv(folder: Path, **columns: str) -> list[Row | Reject]:
    given = {"prompt": "a fox"} | columns
    text = ",".join(given) + "\n" + ",".join(f'"{value}"' for value in given.values())
    return read_bytes(folder, "m.csv", text.encode())


def test_a_silent_row_has_the_models_defaults(tmp_path: Path) -> None:
    row = only_row(from_json(tmp_path))
    assert row == Row(
        ordinal=0,
        line=1,
        id=None,
        prompt="a fox",
        negative_prompt="",
        model="painter",
        mode="text2image",
        lora="",
        width=512,
        height=512,
        steps=50,
        guidance_scale=7.5,
        sampler="ddim",
        seed=None,
        num_images=1,
        init_image=None,
        mask_image=None,
        depth_image=None,
        strength=None,
        upscale=0,
        noise_level=None,
        tenant=None,
        meta={},
    )


def test_every_column_is_read(tmp_path: Path) -> None:
    given = {
        "Prompt": " a fox ",
        "ID": 17,
        "negative_prompt": "blurry",
        "model": "SD15",
        "width": 768,
        "height": "640",
        "steps": 20.0,
        "guidance_scale": 5,
        "sampler": "Euler Ancestral",
        "seed": 2**64 - 1,
        "num_images": 3,
        "init_image": "s3://b/i.png",
        "strength": 0.5,
        "lora": "fog + CAT:-.5",
        "upscale": 4,
        "noise_level": 20,
        "tenant": "ann",
        "label": 3,
    }
    row = only_row(read_bytes(tmp_path, "m.jsonl", json.dumps(given).encode()))
    expected = {key.lower(): value for key, value in given.items()} | {
        "ordinal": 0,
        "line": 1,
        "id": "17",
        "model": "painter",
        "height": 640,
        "sampler": "euler_ancestral",
        "mode": "image2image",
        "lora": "cat:-0.5+fog:1",
        "mask_image": None,
        "depth_image": None,
        "seed_ordinal": None,
        "has_default_model": False,
        "meta": {"label": 3},
    }
    del expected["label"]
    assert dataclasses.asdict(row) == expected
    assert type(row.steps) is int
    assert type(row.guidance_scale) is float


@pytest.mark.parametrize("text", ["512", "512.0", " 512 ", "+512", "512."])
def test_whole_numbers_in_text(tmp_path: Path, text: str) -> None:
    assert only_row(from_csv(tmp_path, width=text)).width == 512


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("prompt", "", "prompt is empty"),
        ("prompt", " \n", "prompt is empty"),
        ("prompt", None, "prompt is empty"),
        ("prompt", 5, "must be text"),
        ("prompt", ["a"], "must be text"),
        ("prompt", "x" * 100_000, "100,000 characters; at most 10,000"),
        ("negative_prompt", "x" * 10_001, "10,001 characters; at most 10,000"),
        ("negative_prompt", {"a": 1}, "must be text"),
        ("id", "x" * 501, "at most 500"),
        ("id", True, "must be text"),
        ("seed", -1, "0 to 18446744073709551615, not -1"),
        ("seed", 2**64, "0 to 18446744073709551615"),
        ("seed", 1e19, "whole number"),
        ("seed", True, "whole number, not True"),
        ("model", "pianter", "unknown model 'pianter'; did you mean 'painter'"),
        ("model", "zzz", "unknown model 'zzz'; there are filler, painter, sd15, sketcher"),
        ("model", 5.5, "must be text"),
        ("width", 500, "multiple of 8, not 500; nearest: 496 or 504"),
        ("height", 63, "64 to 2048, not 63"),
        ("height", 2049, "64 to 2048"),
        ("width", "5,5", "whole number, not '5,5'"),
        ("width", "5e2", "whole number"),
        ("width", "٥١٢", "whole number"),
        ("width", "1_024", "whole number"),
        ("width", 512.5, "whole number"),
        ("width", "9" * 5000, "whole number"),
        ("width", [512], "whole number"),
        ("steps", 0, "1 to 1000"),
        ("steps", 1001, "1 to 1000"),
        ("steps", False, "whole number"),
        ("guidance_scale", -0.1, "0 to 50"),
        ("guidance_scale", 50.1, "0 to 50"),
        ("guidance_scale", "nan", "must be a number"),
        ("guidance_scale", "inf", "must be a number"),
        ("guidance_scale", "7,5", "after a point"),
        ("guidance_scale", "1e999", "0 to 50, not inf"),
        ("guidance_scale", True, "must be a number, not True"),
        ("sampler", "dimm", "unknown sampler 'dimm'; did you mean 'ddim'"),
        ("num_images", 0, "1 to 100000"),
        ("num_images", 100_001, "1 to 100000"),
        ("upscale", 2, "0 (none) or 4"),
        ("upscale", 8, "0 to 4"),
        ("noise_level", 5, "set upscale to 4"),
        ("strength", 0.5, "needs an init_image"),
        ("strength", 1.5, "0 to 1"),
        ("strength", 0, "above 0"),
        ("mask_image", "s3://b/m.png", "needs an init_image"),
        ("tenant", "x" * 101, "at most 100"),
    ],
)
def test_a_value_that_cant_be_is_a_reject(tmp_path: Path, column: str, value: object, words: str) -> None:
    reject = only_reject(from_json(tmp_path, **{column: value}))
    assert words in reject.reason
    assert (reject.column, reject.ordinal, reject.line) == (column, 0, 1)
    assert len(reject.excerpt) <= 200
    assert reject.excerpt.isprintable()


@pytest.mark.parametrize(
    ("columns", "column", "words"),
    [
        ({"model": "sketcher", "upscale": 4}, "upscale", "model 'sketcher' has no 4x upscaler"),
        ({"model": "sketcher", "width": 512}, "width", "64 to 128"),
        ({"model": "sketcher", "sampler": "ddim"}, "sampler", "unknown sampler 'ddim'; there are euler"),
        (
            {"model": "sketcher", "init_image": "s3://b/i.png"},
            "init_image",
            "'sketcher' serves text2image only",
        ),
        ({"model": "filler", "init_image": "s3://b/i.png"}, "init_image", "serves inpaint, text2image only"),
        (
            {"init_image": "s3://b/i.png", "mask_image": "s3://b/m.png"},
            "mask_image",
            "text2image only; leave the pictures out, or choose another: inpaint is served by filler",
        ),
        ({"upscale": 4, "noise_level": 351}, "noise_level", "0 to 350"),
    ],
)
def test_what_a_model_cant_do_is_a_reject(
    tmp_path: Path, columns: dict[str, Any], column: str, words: str
) -> None:
    reject = only_reject(from_json(tmp_path, **columns))
    assert reject.column == column
    assert words in reject.reason


def test_a_model_of_images_alone_needs_one(tmp_path: Path) -> None:
    editor = dataclasses.replace(MODELS["painter"], id="editor", modes=frozenset({"image2image"}))
    given = dataclasses.replace(rules(), models={"editor": editor}, default_model="editor")
    reject = only_reject(read_bytes(tmp_path, "m.txt", b"a fox", given))
    assert "give an init_image" in reject.reason


def test_inpainting_is_accepted(tmp_path: Path) -> None:
    pictures = {"init_image": "s3://b/i.png", "mask_image": "s3://b/m.png"}
    row = only_row(from_json(tmp_path, model="filler", **pictures))
    assert (row.mode, row.strength, row.init_image, row.mask_image) == ("inpaint", 1.0, *pictures.values())


def test_upscale_1_means_none(tmp_path: Path) -> None:
    assert only_row(from_csv(tmp_path, upscale="1", noise_level="")).upscale == 0


def test_empty_cells_are_defaults(tmp_path: Path) -> None:
    row = only_row(from_csv(tmp_path, steps="", seed=" ", id="", sampler="", model="", negative_prompt=""))
    assert (row.steps, row.seed, row.id, row.sampler, row.negative_prompt) == (50, None, None, "ddim", "")


def test_true_is_not_mistaken_for_an_earlier_1(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "a", "steps": steps}) for steps in (1, 1.0, True)]
    first, second, third = read_bytes(tmp_path, "m.jsonl", "\n".join(lines).encode())
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert isinstance(third, Reject)


def test_overrides_replace_the_column_on_every_row(tmp_path: Path) -> None:
    given = rules({"steps": "4.0", "num_images": "2", "tenant": "ann", "negative_prompt": "", "seed": "7"})
    data = b'{"prompt":"a","steps":"x","seed":-5,"negative_prompt":"n"}\n{"prompt":"b"}'
    for row in read_bytes(tmp_path, "m.jsonl", data, given):
        assert isinstance(row, Row), row
        assert (row.steps, row.num_images, row.tenant, row.negative_prompt, row.seed) == (4, 2, "ann", "", 7)
        assert row.meta == {}


@pytest.mark.parametrize(
    "overrides", [{"steps": "x"}, {"seed": "-1"}, {"model": "no"}, {"upscale": "3"}, {"strength": "2"}]
)
def test_an_override_that_no_row_could_take_stops_at_once(tmp_path: Path, overrides: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="--set") as caught:
        read_bytes(tmp_path, "m.txt", b"a fox", rules(overrides))
    assert not isinstance(caught.value, ManifestError)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_renamed_column_is_read_from_its_header(tmp_path: Path, name: str) -> None:
    data = (
        b"Caption,prompt,x\na fox,old,1" if name == "m.csv" else b'{"caption":"a fox","prompt":"old","x":"1"}'
    )
    row = only_row(read_bytes(tmp_path, name, data, rules(renames={"prompt": "Caption"})))
    assert row.prompt == "a fox"
    assert row.meta == {"prompt": "old", "x": "1"}


def test_a_renamed_column_that_a_row_lacks(tmp_path: Path) -> None:
    data = b'{"Caption":"b"}\n{"prompt":"a"}'
    _, reject = read_bytes(tmp_path, "m.jsonl", data, rules(renames={"prompt": "Caption"}))
    assert isinstance(reject, Reject)
    assert reject.reason == "there is no 'Caption' in this row"


def test_meta_keeps_json_types_and_csv_text(tmp_path: Path) -> None:
    meta = {"i": 1, "f": 0.5, "t": True, "z": None, "l": [1, {"a": "b"}], "big": 10**400, "é": "\U0001f98a"}
    assert only_row(from_json(tmp_path, **meta)).meta == meta
    assert only_row(from_csv(tmp_path, i="01", f="", t=" x ")).meta == {"i": "01", "f": "", "t": " x "}


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt":"a","x":NaN}',
        '{"prompt":"a","x":[-Infinity]}',
        '{"prompt":"a","x":1e999}',
        '{"prompt":"a","x":{"y":[1e999]}}',
        '{"prompt":"a","guidance_scale":NaN}',
        '{"prompt":"a\\u0000"}',
        '{"prompt":"a","x":"\\ud800"}',
        '{"prompt":"a","x":["\\uDFFF"]}',
        '{"prompt":"a","x\\u0000":1}',
        '{"prompt":"a","x":{"y\\u0000":1}}',
        '{"prompt":"a","prompt":"b"}',
        '{"prompt":"a","Prompt":"b"}',
        '{"prompt":"a","x":{"y":1,"y":2}}',
        '{"prompt":"a","x":' + "[" * DEEP + "]" * DEEP + "}",
        '{"prompt":"a","x":' + "[" * 70 + "]" * 70 + "}",
        '{"prompt":"a","x":' + "[" * 900 + "]" * 900 + "}",
        '{"prompt":"a","steps":' + "[" * 900 + "]" * 900 + "}",
        '{"prompt":"a","x":' + "1" * 5000 + "}",
        '{"prompt":"a","steps":' + "1" * 4000 + "}",
        '{"prompt":"a"',
        '{"prompt":"a"} x',
        '{"prompt":"a\tb"}',
        "[1]",
        '"a"',
        "5",
        "null",
        "{}",
        '{"promt":"a"}',
    ],
)
def test_json_that_cant_be_stored_is_a_reject_and_the_rest_goes_on(tmp_path: Path, text: str) -> None:
    bad, good = read_bytes(tmp_path, "m.jsonl", f'{text}\n{{"prompt":"b"}}'.encode())
    assert isinstance(bad, Reject), bad
    assert isinstance(good, Row)
    assert (bad.line, good.line, good.ordinal) == (1, 2, 1)
    assert bad.excerpt.isprintable()
    assert bad.reason.isprintable()
    json.dumps([bad.reason, bad.column, bad.excerpt]).encode()


def test_a_misspelt_column_rejects_the_rows_that_have_it(tmp_path: Path) -> None:
    data = b'{"prompt":"a","stpes":4}\n{"prompt":"b","label":1}\n{"promt":"c"}'
    first, second, third = read_bytes(tmp_path, "m.jsonl", data)
    assert isinstance(first, Reject)
    assert first.column == "stpes"
    assert "did you mean 'steps'" in first.reason
    assert isinstance(second, Row)
    assert isinstance(third, Reject)
    assert "did you mean 'prompt'" in third.reason


def test_given_seeds_count_up_and_wrap(tmp_path: Path) -> None:
    row = only_row(from_json(tmp_path, seed=2**64 - 2, num_images=3))
    assert Seeds(1).of(row) == [2**64 - 2, 2**64 - 1, 0]


def test_derived_seeds_are_fixed_and_differ_where_torch_looks(tmp_path: Path) -> None:
    row = only_row(from_json(tmp_path, num_images=1000))
    rows = [dataclasses.replace(row, ordinal=ordinal) for ordinal in range(0, 100_000, 1009)]
    seeds = [seed for row in rows for seed in Seeds(0).of(row)]
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)
    assert max(seeds) < 2**32
    assert Seeds(0).of(row)[:2] == Seeds(0).of(rows[0])[:2] != Seeds(1).of(row)[:2]
