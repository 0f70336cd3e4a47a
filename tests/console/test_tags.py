"""Tags of batches: added, taken back, shown, and found by."""

import pytest
from sqlalchemy import Engine

from tests.console.conftest import Typed
from tests.factories import make_batch


def test_a_batch_is_found_by_its_tags(typed: Typed, engine: Engine) -> None:
    for name in ("red", "blue", "green"):
        make_batch(engine, 1, name=name)
    assert typed("tag", "red", "split=train", "good").code == 0
    assert typed("tag", "blue", "good", "--json").json == {"batch": "blue", "tags": ["good"]}
    assert [each["name"] for each in typed("status", "--tag", "good", "--json").json] == ["red", "blue"]
    assert typed("status", "red", "--json").json["tags"] == ["good", "split=train"]
    assert "good, split=train" in typed("status", "red").out
    assert typed("tag", "red", "better", "--remove", "good", "--remove", "never", "--json").json["tags"] == [
        "better",
        "split=train",
    ]
    assert "red: better, split=train" in typed("tag", "red").err
    assert typed("status", "--tag", "nobody", "--json").json == []


@pytest.mark.parametrize("tag", ["", "Two Words", "-x", "ä", "a" * 101, "a\n"])
def test_what_is_no_tag_is_refused(typed: Typed, engine: Engine, tag: str) -> None:
    make_batch(engine, 1, name="red")
    for command in (("tag", "red", "--", tag), ("tag", "red", f"--remove={tag}"), ("status", f"--tag={tag}")):
        ended = typed(*command)
        assert (ended.code, "Traceback" in ended.err) == (2, False), command
    assert typed("status", "red", "--json").json["tags"] == []


def test_a_tag_looks_at_all_batches(typed: Typed, engine: Engine) -> None:
    make_batch(engine, 1, name="red")
    assert "it takes no batch" in typed("status", "red", "--tag", "good").err
