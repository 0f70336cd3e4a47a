"""Pictures as columns: where they lie, what they make of a row, and which LoRAs it takes."""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ManifestError, UsageError
from jobs.input_image_access import MAX_BYTES, PictureRefusedError, file_problem, is_allowed, read_picture
from jobs.manifest import ModelRules, Reject, Row, RowRules, open_source, read_rows
from jobs.storage.safe_open import Writable
from tests.jobs.manifest.helpers import LORAS, MODELS, only_reject, only_row, read, read_bytes, rules

RELIEF = dataclasses.replace(MODELS["painter"], id="relief", modes=frozenset({"depth"}), strength=0.6)
ENLARGER = ModelRules(
    "enlarger",
    64,
    64,
    75,
    9.0,
    "ddim",
    frozenset({"ddim"}),
    max_size=512,
    modes=frozenset({"upscale"}),
    upscales=frozenset({4}),
    noise_level=30,
    noise_level_max=300,
)
ALL = rules().models | {"relief": RELIEF, "enlarger": ENLARGER}  # type: ignore[operator]
INIT, MASK, DEPTH = ({f"{name}_image": f"s3://b/{name}.png"} for name in ("init", "mask", "depth"))


def given(**changes: Any) -> RowRules:
    return dataclasses.replace(rules(), models=ALL, **changes)


def rows(folder: Path, *lines: dict[str, Any], by: RowRules | None = None) -> list[Row | Reject]:
    text = "".join(json.dumps({"prompt": "a fox"} | line) + "\n" for line in lines)
    return read_bytes(folder, "m.jsonl", text.encode(), by or given())


def one(folder: Path, *columns: dict[str, Any]) -> Row:
    merged = {name: value for each in columns for name, value in each.items()}
    return only_row(rows(folder, merged))


def refused(folder: Path, *columns: dict[str, Any]) -> Reject:
    merged = {name: value for each in columns for name, value in each.items()}
    return only_reject(rows(folder, merged))


@pytest.mark.parametrize(
    ("model", "pictures", "mode", "strength"),
    [
        ("painter", {}, "text2image", None),
        ("painter", INIT, "image2image", 0.8),
        ("filler", INIT | MASK, "inpaint", 1.0),
        ("relief", INIT, "depth", 0.6),
        ("relief", INIT | DEPTH, "depth", 0.6),
        ("relief", DEPTH, "depth", None),
        ("enlarger", INIT, "upscale", None),
    ],
)
def test_the_mode_follows_from_model_and_pictures(
    tmp_path: Path, model: str, pictures: dict[str, str], mode: str, strength: float | None
) -> None:
    row = one(tmp_path, {"model": model}, pictures)
    assert (row.mode, row.strength) == (mode, strength)
    assert (row.init_image, row.mask_image, row.depth_image) == tuple(
        pictures.get(f"{name}_image") for name in ("init", "mask", "depth")
    )


def test_an_upscaler_takes_pictures_as_they_are_or_at_a_size(tmp_path: Path) -> None:
    row = one(tmp_path, {"model": "enlarger"}, INIT)
    assert (row.width, row.height, row.upscale, row.noise_level, row.steps) == (0, 0, 4, 30, 75)
    sized = one(
        tmp_path, {"model": "enlarger", "width": 128, "height": 64, "upscale": "4", "noise_level": 300}, INIT
    )
    assert (sized.width, sized.height, sized.noise_level) == (128, 64, 300)
    drawn = one(tmp_path, {"upscale": 4})
    assert (drawn.mode, drawn.noise_level) == ("text2image", 20)


def test_what_is_only_enlarged_needs_no_prompt(tmp_path: Path) -> None:
    text = "init_image,model\ns3://b/a.png,enlarger\ns3://b/b.png,painter\n"
    row, refused_one = read_bytes(tmp_path, "m.csv", text.encode(), given())
    assert isinstance(row, Row)
    assert (row.prompt, row.mode) == ("", "upscale")
    assert isinstance(refused_one, Reject)
    assert (refused_one.column, refused_one.reason) == ("prompt", "there is no 'prompt' in this row")
    assert one(tmp_path, {"model": "enlarger", "prompt": " "}, INIT).prompt == ""
    assert one(tmp_path, {"model": "enlarger", "prompt": "fur"}, INIT).prompt == "fur"
    assert refused(tmp_path, {"model": "painter", "prompt": None}, INIT).reason == "prompt is empty"


@pytest.mark.parametrize(
    ("columns", "column", "words"),
    [
        ({"model": "relief"}, "init_image", "serves depth only; give an init_image or a depth_image"),
        ({"model": "enlarger"}, "init_image", "enlarges pictures; give an init_image"),
        ({"model": "enlarger"} | INIT | MASK, "mask_image", "leave mask_image out"),
        ({"model": "enlarger", "width": 64} | INIT, "height", "give width and height, or neither"),
        ({"model": "enlarger", "upscale": 0} | INIT, "upscale", "enlarges by 4; leave upscale empty"),
        ({"model": "enlarger", "strength": 0.5} | INIT, "strength", "an upscaler takes no strength"),
        ({"model": "enlarger", "lora": "cat"} | INIT, "lora", "doesn't fit model 'enlarger'"),
        ({"model": "enlarger", "noise_level": 301} | INIT, "noise_level", "0 to 300"),
        ({"model": "relief", "strength": 0.5} | DEPTH, "strength", "needs an init_image"),
        ({"model": "relief"} | INIT | MASK, "mask_image", "serves depth only; give an init_image or a depth_image"),
        (DEPTH, "depth_image", "or choose another: depth is served by relief"),
        (INIT | MASK | DEPTH, "depth_image", "a mask_image or a depth_image, not both"),
        ({"strength": 0.01} | INIT, "strength", "strength 0.01 of 50 steps leaves none to take"),
        ({"strength": 0} | INIT, "strength", "above 0"),
        ({"model": "filler"} | INIT, "init_image", "image2image is served by painter"),
        ({"init_image": "https://x.org/i.png"}, "init_image", "download it first"),
        ({"init_image": "s3://bucket"}, "init_image", "names no object"),
        ({"init_image": "s3://bucket/folder/"}, "init_image", "names no object"),
        ({"init_image": 5.5}, "init_image", "must be text"),
        ({"init_image": "x" * 2001}, "init_image", "at most 2,000"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_a_reject(
    tmp_path: Path, columns: dict[str, Any], column: str, words: str
) -> None:
    reject = refused(tmp_path, columns)
    assert reject.column == column
    assert words in reject.reason


def test_a_path_starts_at_the_manifests_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "i.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep" / "m.csv").write_text("prompt,init_image\na fox, ../i.png \n")
    assert only_row(read(Path("deep/m.csv"), given())).init_image == str(tmp_path / "i.png")
    assert one(tmp_path, {"init_image": str(tmp_path / "i.png")}).init_image == str(tmp_path / "i.png")


def test_from_standard_input_it_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "i.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    data = b'{"prompt": "a fox", "init_image": "i.png"}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    with open_source("-", format="jsonl") as manifest:
        assert only_row(list(read_rows(manifest, given()))).init_image == str(tmp_path / "i.png")


def test_in_a_manifest_on_s3_it_starts_at_its_prefix(tmp_path: Path) -> None:
    names = ("i.png", "../up.png", "../../../up.png", str(tmp_path))

    def fetch(_: str, file: Writable) -> None:
        for name in names:
            file.write(json.dumps({"prompt": "a", "init_image": name}).encode() + b"\n")

    with open_source("s3://bucket/a/b/m.jsonl", fetch=fetch) as manifest:
        first, second, third, local = read_rows(manifest, given())
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.init_image, second.init_image) == ("s3://bucket/a/b/i.png", "s3://bucket/a/up.png")
    assert isinstance(third, Reject), "there is nothing above a bucket"
    assert isinstance(local, Reject)
    assert local.reason == f"{tmp_path} is a folder"


def test_a_file_that_can_not_be_a_picture_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for name, words in (
        ("none.png", f"there is no file {tmp_path}/none.png"),
        ("empty.png/x.png", f"there is no file {tmp_path}/empty.png/x.png"),
        ("empty.png", "is empty"),
        ("pipe.png", "is a pipe"),
        ("huge.png", "has 64 MiB; at most 64 are read"),
    ):
        reject = refused(tmp_path, {"init_image": name})
        assert (reject.column, words in reject.reason) == ("init_image", True), reject.reason


def test_each_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "i.png").write_bytes(b"x")
    looked: list[str] = []
    stat = os.stat

    def count(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("i.png"):
            looked.append(str(path))
        return stat(path, **options)

    monkeypatch.setattr("jobs.input_image_access.os.stat", count)
    items = rows(tmp_path, *[{"init_image": "i.png", "strength": 0.5}] * 100)
    assert all(isinstance(item, Row) for item in items)
    assert len(looked) == 1


def test_pictures_lie_below_the_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "in-side"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "i.png").write_bytes(b"x")
    (inside / "link.png").symlink_to(outside / "i.png")
    (tmp_path / "alias").symlink_to(inside)
    by = given(image_roots=(str(tmp_path / "alias"), "s3://bucket/ours"))
    names = ("in/i.png", "in-side/i.png", "in/link.png", "in/../in-side/i.png")
    names += ("s3://bucket/ours/i.png", "s3://bucket/ourselves.png", "s3://other/i.png", "in-side/none.png")
    items = rows(tmp_path, *({"init_image": name} for name in names), by=by)
    assert [isinstance(item, Row) for item in items] == [True, False, False, False, True, False, False, False]
    for item in items:
        if isinstance(item, Reject):
            assert item.reason.endswith("lies outside of the folders of NIGHTMILL_IMAGE_ROOTS")


def test_a_picture_for_all_rows(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(b"x")
    by = given(overrides={"init_image": "i.png", "lora": "cat"})
    row = only_row(rows(tmp_path, {"lora": "nonsense"}, by=by))
    assert (row.mode, row.init_image, row.lora) == ("image2image", str(tmp_path / "i.png"), "cat:1")
    for overrides in ({"init_image": "none.png"}, {"lora": "dog"}, {"strength": "0"}):
        with pytest.raises(UsageError, match="--set") as caught:
            rows(tmp_path, {}, by=given(overrides=overrides))
        assert not isinstance(caught.value, ManifestError)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (" cat ", "cat:1"),
        ("CAT:0.80", "cat:0.8"),
        ("cat:1", "cat:1"),
        ("fog:-2+cat:1e-1", "cat:0.1+fog:-2"),
        ("cat : 0.5 + fog", "cat:0.5+fog:1"),
    ],
)
def test_loras_have_one_form(tmp_path: Path, text: str, canonical: str) -> None:
    assert one(tmp_path, {"lora": text}).lora == canonical


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cta", "unknown LoRA 'cta'; did you mean 'cat'?"),
        ("cat+", "unknown LoRA ''"),
        ("cat:0", "the weight of LoRA 'cat' must be -2 to 2 and not 0, as in cat:0.8, not '0'"),
        ("cat:2.1", "must be -2 to 2"),
        ("cat:", "must be -2 to 2"),
        ("cat:nan", "must be -2 to 2"),
        ("cat+CAT:0.5", "LoRA 'cat' is named twice"),
        (["cat"], "must be text"),
    ],
)
def test_loras_that_can_not_be(tmp_path: Path, text: object, words: str) -> None:
    reject = refused(tmp_path, {"lora": text})
    assert reject.column == "lora"
    assert words in reject.reason


def test_a_lora_fits_the_models_of_its_base(tmp_path: Path) -> None:
    assert one(tmp_path, {"model": "filler", "lora": "cat"}, INIT, MASK).lora == "cat:1"
    reject = refused(tmp_path, {"model": "filler", "lora": "fog"}, INIT, MASK)
    assert reject.reason == (
        "LoRA 'fog' was made for 'painter' and doesn't fit model 'filler'; models that it fits: painter"
    )
    only = only_reject(rows(tmp_path, {"lora": "cat"}, by=given(loras={})))
    assert only.reason == "unknown LoRA 'cat'; the catalogue has none"
    assert LORAS["cat"].fits == {"painter", "filler"}


def test_a_small_decoder_must_be_one_that_the_model_names(tmp_path: Path) -> None:
    by = given(needs_decoder=True)
    reject = only_reject(rows(tmp_path, {}, by=by))
    assert (reject.column, reject.reason) == (
        "model",
        "decoder=tiny, and model 'painter' names no small decoder; use decoder=full",
    )
    quick = dataclasses.replace(MODELS["painter"], has_decoder=True)
    assert (
        only_row(rows(tmp_path, {}, by=dataclasses.replace(by, models={"painter": quick}))).model == "painter"
    )


def test_a_score_that_is_insisted_on_needs_a_model_that_names_a_clip(tmp_path: Path) -> None:
    by = given(needs_clip=True)
    reject = only_reject(rows(tmp_path, {}, by=by))
    assert (reject.column, "clip_score=on, and model 'painter' names no CLIP" in reject.reason) == (
        "model",
        True,
    )
    judged = dataclasses.replace(MODELS["painter"], has_clip=True)
    assert (
        only_row(rows(tmp_path, {}, by=dataclasses.replace(by, models={"painter": judged}))).mode
        == "text2image"
    )


def test_a_picture_whose_way_cant_be_followed_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "ok.png").write_bytes(b"x")
    names = ["loop.png", "a\0.png", "x" * 1999, "/proc/self/fd/99999", "ok.png"]
    (tmp_path / "m.jsonl").write_text(
        "".join(json.dumps({"prompt": "a", "init_image": name}) + "\n" for name in names)
    )
    made = read(tmp_path / "m.jsonl", given(image_roots=(str(tmp_path),)))
    assert [type(item) for item in made] == [Reject] * 4 + [Row]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_picture_behind_a_closed_door_is_a_reject(tmp_path: Path) -> None:
    picture = tmp_path / "closed" / "picture.png"
    picture.parent.mkdir(mode=0o700)
    picture.write_bytes(b"x")
    os.seteuid(65534)
    try:
        assert not is_allowed(str(picture), ["/usr"])
        assert file_problem(str(picture))
        with pytest.raises(PictureRefusedError, match="Permission denied"):
            read_picture(str(picture), ["/usr"])
    finally:
        os.seteuid(0)


def test_a_picture_that_is_swapped_after_the_look_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roots").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    path = tmp_path / "roots" / "a.png"
    path.write_bytes(b"mine")
    roots = [str(tmp_path / "roots")]
    assert read_picture(str(path), roots) == b"mine"
    real_open = os.open

    def swapping(name: str, *rest: int) -> int:
        path.unlink()
        path.symlink_to(tmp_path / "secret")
        return real_open(name, *rest)

    monkeypatch.setattr("os.open", swapping)
    with pytest.raises(PictureRefusedError, match="lies outside of the folders of NIGHTMILL_IMAGE_ROOTS"):
        read_picture(str(path), roots)


def test_a_strong_mark_that_is_insisted_on_needs_a_picture_that_can_have_one(tmp_path: Path) -> None:
    by = given(needs_tiled_mark=True)
    small = {"width": 64, "height": 192}
    reject = only_reject(rows(tmp_path, small, by=by))
    assert (reject.column, reject.reason) == (
        "width",
        "watermark=require-strong: marks of pictures of less than 16,384 pixels aren't strong, and this one has "
        "64 x 192; use watermark=require",
    )
    assert only_row(rows(tmp_path, small, by=given())).width == 64
    assert only_row(rows(tmp_path, {"width": 128, "height": 128}, by=by)).width == 128
    large = dataclasses.replace(MODELS["painter"], upscales=frozenset({4}))
    upscaled = rows(tmp_path, small | {"upscale": 4}, by=dataclasses.replace(by, models={"painter": large}))
    assert only_row(upscaled).upscale == 4
