"""Wrong use and missing services: one clear line on stderr, the right exit code, no traceback, nothing done."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs.settings import Settings
from models.optional_packages import EXTRAS
from tests.command_line import Ended, Nightmill
from tests.console.conftest import Typed, write_lines


def says(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    line = ended.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nobody listens and nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def changed(typed: Typed, **settings: object) -> Typed:
    return Typed(typed.settings.model_copy(update=settings), typed.folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("status nihgt", ["no batch 'nihgt': did you mean 'night'?"]),
        ("pause zzz", ["no batch 'zzz': `nightmill status` lists those there are"]),
        ("retry night --only done", ["--only done: must be one of failed, blocked, cancelled"]),
        ("retry night --error sadness", ["--error sadness: must be one of oom, nan, black, "]),
        ("feed --since yesterday", ["'yesterday' is no cursor of the feed", "0-0 for the start"]),
        ("export night --to ftp://x/y", ["'ftp://x/y' is no place for objects"]),
        ("run nigth.jsonl", ["nigth.jsonl: no such file. Did you mean night.jsonl?"]),
        ("run night.jsonl --set stepps=4", ["'stepps'", "did you mean 'steps'?"]),
        ("run night.jsonl --set steps", ["--set 'steps'"]),
        ("run night.jsonl --set steps=many", ["steps must be a whole number, not 'many'"]),
        ("run night.jsonl --set safety=never", ["--set safety=never: ", "'quarantine', 'flag', 'blacken' or 'blur'"]),
        ("run night.jsonl --set safety_strength=9", ["--set safety_strength=9: ", "'standard' or 'strong'"]),
        ("run night.jsonl --set safety_thresholds=99=1", ["--set safety_thresholds=99=1: ", "no such concept"]),
        ("run night.jsonl --set weights=int6", ["--set weights=int6: ", "'full', 'fp8', 'int8' or 'int4'"]),
        ("run night.jsonl --set decoder=tiny --model absent", ["decoder=tiny: model 'absent' names no small decoder"]),
        ("run night.jsonl --set format=gif", ["--set format=gif: ", "'png', 'webp' or 'jpeg'"]),
        ("run night.jsonl --model tiny-randon", ["unknown model 'tiny-randon'; did you mean 'tiny-random'?"]),
        ("run night.jsonl --name Night!", ["--name 'Night!' can't name a batch", "such as 'night'"]),
        ("run night.jsonl --name day", ["the name 'day' belongs to a batch of another manifest"]),
        ("run night.jsonl --map propmt=Caption", ["propmt"]),
        ("run night.jsonl --out ftp://x/y --name x1", ["'ftp://x/y' is no place for objects"]),
        ("run night.jsonl --out s3:///y --name x2", ["names no S3 bucket: write s3://bucket/path"]),
        ("run night.jsonl --strict --name x3", ["night.jsonl, line 5", "width must be 64 to 256", "nothing was"]),
        ("run models", ["models"]),
        ("run night.jsonl --input-format xml", ["xml", "jsonl"]),
        ("plan nigth.jsonl", ["Did you mean night.jsonl?"]),
        ("models show tiny-randon", ["no model is called 'tiny-randon'. Did you mean 'tiny-random'?"]),
        ("migrate --down", ["say where to with --to", "`--to base` drops all tables"]),
        ("migrate --to nowhere", ["migrate --to nowhere: ", "nowhere"]),
        ("worker --device gpu", ["NIGHTMILL_DEVICE: "]),
    ],
)  # fmt: skip
def test_wrong_use(shelf: Typed, arguments: str, words: list[str]) -> None:
    says(shelf(*arguments.split()), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "day.txt", "--set", "steps="], "--set steps=: gives no value; --drop steps leaves out"),
        (["plan", "day.txt", "--set=tenant= "], "--set tenant= : gives no value"),
        (["submit", "day.txt", "--name", ""], "--name is empty"),
        (["submit", "day.txt", "--model="], "--model is empty"),
        (["export", "day", "--to", ""], "--to is empty"),
        (["evaluate", "day", "--to="], "--to is empty"),
        (["feed", "--batch", ""], "--batch is empty"),
        (["sweep", ""], "argument 2 is empty"),
        ([""], "argument 1 is empty"),
    ],
)
def test_an_empty_argument_is_not_taken_for_none(shelf: Typed, arguments: list[str], words: str) -> None:
    """It is a variable of the shell that isn't set: `sweep ""` would sweep all batches."""
    says(shelf(*arguments), 2, words)


def test_weights_that_private_workers_could_not_pack(shelf: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "packed", ("absent_here",))
    asked = ["plan", "day.txt", "--set", "weights=int4"]
    alone = changed(shelf, database_url=None)
    says(
        alone(*asked),
        2,
        "--set weights=int4: weights 'int4' need bitsandbytes: pip install 'nightmill[packed]'",
    )
    assert alone("plan", "day.txt", "--set", "weights=fp8").code == 0
    assert shelf(*asked).code == 0, "its workers may be elsewhere"


def test_strong_marks_that_private_workers_could_not_embed(shelf: Typed) -> None:
    asked = ["plan", "day.txt", "--set", "watermark=require-strong"]
    alone = changed(shelf, database_url=None, watermark="ACME")
    says(
        alone(*asked),
        2,
        "--set watermark=require-strong is for tiled marks: set NIGHTMILL_WATERMARK_METHOD=tiled",
    )
    told = changed(shelf, database_url=None)(*asked)
    assert (told.code, "watermark=require-strong: marks of pictures of less than 16,384" in told.out) == (
        1,
        True,
    )
    assert changed(shelf, watermark="ACME")(*asked).code == 1, (
        "its workers may be elsewhere, with other settings"
    )


@pytest.mark.parametrize(
    "arguments",
    ["", "dance", "status --loud", "run", "run night.jsonl --workers -1", "export night --format gif"],
)
def test_wrong_words_are_shown_what_is_right(shelf: Typed, arguments: str) -> None:
    ended = shelf(*arguments.split())
    assert ended.code == 2
    assert "Usage: " in ended.err + ended.out
    assert "Traceback" not in ended.err


def test_wrong_use_left_nothing_behind(shelf: Typed) -> None:
    assert {batch["name"] for batch in shelf("status", "--json").json} == {"night", "day"}
    assert not list((shelf.folder / "output").glob("*/images"))


def test_an_output_that_is_no_folder(typed: Typed, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    (tmp_path / "file").write_text("not a folder")
    for out in ("file", "file/x", "/dev/null"):
        for command in ("run", "submit", "plan"):
            says(typed(command, "m.jsonl", "--out", out), 2, "not a folder")
    says(
        changed(typed, output=str(tmp_path / "file"))("submit", "m.jsonl"),
        2,
        "NIGHTMILL_OUTPUT: ",
        "is a file",
    )
    assert typed("submit", "m.jsonl").code == 0
    for to in ("file", "file/x", "/dev/null"):
        says(typed("export", "m", "--to", to), 2, "not a folder")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_an_unreachable_database(typed: Typed, closed: str) -> None:
    url = SecretStr(f"postgresql://someone:very-secret@{closed}/x")
    for arguments in (["status"], ["run", "x.txt"], ["migrate"]):
        ended = changed(typed, database_url=url)(*arguments)
        says(ended, 1, "can't reach PostgreSQL at postgresql", closed, "refused")
        assert "very-secret" not in ended.err


def test_an_unreachable_redis(typed: Typed, tmp_path: Path, closed: str) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    away = changed(typed, broker_url=SecretStr(f"redis://:very-secret@{closed}/0"))
    ended = away("run", "m.jsonl")
    says(ended, 1, "can't reach Redis", closed, "refused")
    assert "very-secret" not in ended.err
    looked = away("doctor", "--json")
    assert looked.code == 1
    assert [check["check"] for check in looked.json if not check["ok"]] == ["Redis"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DATABASE_URL", "mysql://a:very-secret@b/c", "NIGHTMILL_DATABASE_URL must be postgresql://…"),
        ("DATABASE_URL", "very-secret", "NIGHTMILL_DATABASE_URL is not a URL"),
        ("GPU_ROWS", "none", "NIGHTMILL_BATCH_SIZE: "),
        ("DEVICE", "gpu", "NIGHTMILL_DEVICE: "),
        ("OUTPUT", "ftp://x/y", "'ftp://x/y' is no place for objects"),
        ("DEFAULT_MODEL", "tiny-randon", "Did you mean 'tiny-random'?"),
    ],
)
def test_wrong_settings(
    typed: Typed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    words: str,
) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    environment = typed.settings.environment() | {f"NIGHTMILL_{variable}": value}
    monkeypatch.setattr(Settings, "environment", lambda _: environment)
    ended = typed("run", "m.jsonl")
    says(ended, 2, words)
    assert "very-secret" not in ended.err


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("file/x", "file is a file, not a folder"),
        ("/dev/null", "/dev/null is a device, not a folder"),
        ("loop", "loop can't be used: "),
        ("dangling", "dangling can't be used: "),
    ],
)
def test_a_data_folder_that_cannot_be(typed: Typed, tmp_path: Path, folder: str, words: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("gone")
    for more in ({"database_url": None}, {}):  # who has services of his own needs the folder for logs
        wrong = changed(typed, data_dir=tmp_path / folder, **more)
        says(wrong("status" if more else "up"), 2, "NIGHTMILL_DATA_DIR: ", words)


def test_a_models_folder_that_cannot_be(typed: Typed) -> None:
    wrong = changed(typed, models_dir=Path("/dev/null"))
    says(wrong("models"), 2, "NIGHTMILL_MODELS_DIR: /dev/null is a device, not a folder")


def test_a_database_without_tables(settings: Settings, empty_database: str, tmp_path: Path) -> None:
    empty = settings.model_copy(update={"database_url": SecretStr(empty_database)})
    typed = Typed(empty, tmp_path)
    says(typed("status"), 1, "lacks nightmill's tables", "run `nightmill migrate`")
    says(Nightmill(empty, tmp_path)("worker"), 1, "run `nightmill migrate`")
    looked = typed("doctor", "--json")
    assert looked.code == 1
    assert [check["check"] for check in looked.json if not check["ok"]] == ["PostgreSQL"]
    assert "run `nightmill migrate`" in next(c["finding"] for c in looked.json if c["check"] == "PostgreSQL")
    migrated = typed("migrate", "--json")
    assert (migrated.code, migrated.json["before"]) == (0, None)
    assert typed("status", "--json").json == []
    says(typed("migrate", "--down", "--to", "base"), 2, "drops all tables and what is in them", "say --yes")
    assert typed("status", "--json").json == [], "nothing was dropped"
    down = typed("migrate", "--down", "--to", "base", "--yes")
    assert down.code == 0
    assert down.err.startswith("migrated from ")
    assert down.err.strip().endswith("to an empty database")
    says(typed("status"), 1, "run `nightmill migrate`")
    assert typed("migrate").err.startswith("migrated from an empty database to ")


def test_what_an_export_over_others_leaves_is_named(typed: Typed, tmp_path: Path) -> None:
    """Spark's parts stay, and readers would read both."""
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    assert typed("submit", "m.jsonl").code == 0
    (tmp_path / "spark").mkdir()
    for name in ("part-00000-aa.snappy.parquet", "part-00000.parquet"):
        (tmp_path / "spark" / name).write_bytes(b"theirs")
    ended = typed("export", "m", "--to", "spark", "--overwrite")
    assert ended.code == 0
    assert f"deleting {tmp_path}/spark/part-00000.parquet" in ended.err
    assert (
        f"{tmp_path}/spark/part-00000-aa.snappy.parquet stays: readers of the folder may take it" in ended.err
    )


def test_a_batchs_folder_is_no_place_for_an_export(typed: Typed, tmp_path: Path) -> None:
    """Not even with --overwrite, which would delete the other batch's own."""
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    for name in ("one", "two"):
        assert typed("submit", "m.jsonl", "--name", name, "--out", "output").code == 0
    assert typed("export", "one").code == 0
    mine = tmp_path / "output" / "one" / "export"
    (tmp_path / "link").symlink_to(mine)
    before = {path: path.read_bytes() for path in mine.iterdir()}
    for to in (mine, tmp_path / "link", mine.parent / "images" / "deep"):
        says(typed("export", "two", "--to", str(to), "--overwrite"), 2, "the folder of a batch")
    assert {path: path.read_bytes() for path in mine.iterdir()} == before
