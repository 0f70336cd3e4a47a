"""Conditions that users write: what they choose, what is refused and where, and that none of it reaches SQL as text."""

import random
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.errors import UsageError
from jobs.images.where_expression import LONGEST, compile_condition
from jobs.queue import transitions
from tests.factories import image, lanes_of, make_batch, take

ROWS: list[dict[str, Any]] = [
    {"prompt": "a fox", "id": "f0", "label": "fox", "score": 1, "ok": True},
    {"prompt": "it's a bear", "id": "f1", "label": "bear", "score": "2.5", "ok": False},
    {"prompt": "100% owl", "id": "f2", "label": None, "nested": {"a b": {"n": 7}}, "seed": 2**64 - 1},
    {"prompt": "nobody", "score": "none", "x-y": "dash"},
]


@pytest.fixture
def images(engine: Engine) -> Engine:
    batch = make_batch(engine, ROWS, name="animals", output="s3://bucket/out")
    for lane in lanes_of(engine, batch):
        for job in take(engine, lane):
            scores = {"clip_score": 20.0 + job.ordinal, "clip_model": "judge"}
            transitions.complete(engine, [image(job, quality=None if job.ordinal == 3 else scores)])
    return engine


def chosen(engine: Engine, condition: str) -> list[int]:
    """The ordinals of the images that meet a condition."""
    compiled = compile_condition(condition)
    query = (
        f"SELECT ordinal FROM images i JOIN batches b ON b.id = i.batch_id WHERE {compiled.sql} ORDER BY 1"  # noqa: S608
    )
    with engine.connect() as connection:
        return list(connection.execute(text(query), compiled.values).scalars())


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("ordinal = 1", [1]),
        ("ordinal == 1 or ordinal=3", [1, 3]),
        ("NOT ordinal < 2 AND ordinal <> 3", [2]),
        ("ordinal in (0, 2, 9)", [0, 2]),
        ("ordinal not in (0, 2, 9)", [1, 3]),
        ("row_id is null", [3]),
        ("row_id is not null and row_id >= 'f1'", [1, 2]),
        ("prompt = 'it''s a bear'", [1]),
        ("prompt like 'a%' or prompt like '100\\%%'", [0, 2]),
        ("prompt not like 'a%'", [1, 2, 3]),
        ("seed = 18446744073709551615", [2]),
        ("meta.label = 'fox'", [0]),
        ("meta.label != 'fox'", [1]),
        ("meta.label is null", [2, 3]),
        ("meta.score > 0.5", [0, 1]),
        ("meta.score >= 2.5", [1]),
        ("meta.score = '1'", [0]),
        ("meta.ok", [0]),
        ("not meta.ok", [1]),
        ("meta.ok = false", [1]),
        ('meta.nested."a b".n = 7', [2]),
        ("meta.x-y = 'dash'", [3]),
        ("clip_score > 20 and not clip_score > 21.5", [1]),
        ("quality.clip_score is null", [3]),
        ("prompt_truncated", []),
        ("not prompt_truncated", [0, 1, 2, 3]),
        ("prompt_truncated = false and batch = 'animals'", [0, 1, 2, 3]),
        ("created_at > '2020-01-01T00:00:00Z'", [0, 1, 2, 3]),
        ("created_at < '2020-01-01T00:00:00+01:00'", []),
        ("uri like 's3://bucket/out/batch/%'", [0, 1, 2, 3]),
        ("((ordinal = 0 or ordinal = 1) and (meta.label = 'fox'))", [0]),
        ("ordinal < 1e2 and ordinal > -1", [0, 1, 2, 3]),
        ("prompt = ':w0 %s {0} '' ; DROP TABLE images --'", []),
        ('meta."\'; DROP TABLE images --" is null', [0, 1, 2, 3]),
    ],
)
def test_what_conditions_choose(images: Engine, condition: str, expected: list[int]) -> None:
    assert chosen(images, condition) == expected


@pytest.mark.parametrize(
    ("condition", "character", "message"),
    [
        ("", 1, "expected the name of a column, not the end"),
        ("ordinal", 8, "expected an operator such as =, not the end"),
        ("ordinal = ", 10, "expected a value, not the end"),
        ("ordinel = 1", 1, "no column 'ordinel': did you mean 'ordinal'?"),
        ("prompt = fox", 10, "expected a value, not fox: texts are written in single quotes"),
        ("prompt = 'fox", 10, "neither a name nor a value nor an operator"),
        ("prompt = 5", 10, "prompt is a text, and is compared with a text alone"),
        ("ordinal = '5'", 11, "ordinal is a number"),
        ("ordinal = 24px", 11, "neither a name nor a value"),
        ("ordinal = 1 ordinal = 2", 13, "expected `and`, `or` or the end, not ordinal"),
        ("(ordinal = 1", 13, "expected ), not the end"),
        ("ordinal = 1; DROP TABLE images", 12, "neither a name nor a value nor an operator"),
        ("ordinal in 1", 12, "expected (, not 1"),
        ("ordinal in ()", 13, "expected a value, not )"),
        ("ordinal is 1", 12, "expected null, not 1"),
        ("ordinal not = 1", 13, "expected `in` or `like`"),
        ("ordinal like 1", 14, "expected a text, not 1"),
        ("meta = 'x'", 1, "meta holds several values: name one of them, as in meta.label"),
        ("prompt.x = 'x'", 1, "prompt is a single value, there is no x in it"),
        ("meta.ok > true", 11, "true and false are compared by = and != alone"),
        ("created_at > 'yesterday'", 14, "expected a moment with its zone"),
        ("created_at > '2026-01-01T00:00:00'", 14, "expected a moment with its zone"),
        ("and ordinal = 1", 1, "expected the name of a column, not and"),
        ("(" * 60 + "ordinal = 1", 51, "too deeply nested"),
        ("not " * 60 + "ordinal = 1", 201, "too deeply nested"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(condition: str, character: int, message: str) -> None:
    with pytest.raises(UsageError) as error:
        compile_condition(condition)
    assert f"character {character}: " in str(error.value)
    assert message in str(error.value)
    assert str(error.value).splitlines()[-1] == " " * (character + 1) + "^"


def test_a_condition_that_is_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match="has at most 4,000 characters"):
        compile_condition("ordinal = 1 or " * LONGEST)


def test_whatever_is_written_is_refused_or_runs(images: Engine) -> None:
    """Random words of the language and of SQL: PostgreSQL never sees anything that it can't parse."""
    words = [
        "ordinal",
        "prompt",
        "meta.a",
        'meta."',
        "clip_score",
        "prompt_truncated",
        "created_at",
        "seed",
        "=",
        "<",
    ]
    words += [
        "like",
        "in",
        "not",
        "is",
        "null",
        "and",
        "or",
        "(",
        ")",
        ",",
        "'x'",
        "'%'",
        "1e999",
        "-1",
        "0.5",
        "true",
    ]
    words += ["'", "--", ";", ":w0", "%(w0)s", "$1", "/*", "select", "'2026-01-01T00:00:00Z'"]
    chance, ran = random.Random(5), 0
    for _ in range(6_000):
        condition = " ".join(chance.choices(words, k=chance.randint(1, 8)))
        try:
            compile_condition(condition)
        except UsageError:
            continue
        chosen(images, condition)
        ran += 1
    assert ran > 50
