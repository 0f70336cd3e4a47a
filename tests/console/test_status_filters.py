"""`status` without a name: which batches it lists, and how many it says that it leaves out."""

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.states import JobState
from tests.console.conftest import Typed
from tests.factories import age, change, make_batch


def make(engine: Engine, **hours_ago: int | None) -> None:
    """Batches of one tenant each, submitted four days ago; those with a number ended so many hours ago."""
    for name, hours in hours_ago.items():
        batch = make_batch(engine, [{"prompt": "fox", "tenant": f"of-{name}"}], name=name)
        if hours is not None:
            actions.cancel(engine, batch.id)
            age(engine, hours * 3600, batch.id)
    change(engine, "UPDATE batches SET created_at = now() - interval '4 days'")


@pytest.fixture
def batches(engine: Engine) -> None:
    make(engine, open=None, young=23, old=25, older=72)


@pytest.mark.usefixtures("batches")
def test_batches_that_ended_long_ago_are_counted_unless_asked_for(typed: Typed) -> None:
    def listed(*options: str) -> tuple[list[str], str]:
        ended = typed("status", *options, "--json")
        assert ended.code == 0, ended.err
        return [each["name"] for each in ended.json], ended.err

    left_out = "2 batches that ended over a day ago aren't shown: --all shows all\n"
    one_left_out = "1 batch that ended over a day ago isn't shown: --all shows all\n"
    assert listed() == (["open", "young"], left_out)
    assert listed("--all") == (["open", "young", "old", "older"], "")
    assert listed("--state", "cancelled") == (["young"], left_out)
    assert listed("--state", "cancelled", "--state", "queued", "--all")[0] == [
        "open",
        "young",
        "old",
        "older",
    ]
    assert listed("--name", "o*") == (["open"], left_out)
    assert listed("--tenant", "of-old") == ([], one_left_out)
    assert listed("--tenant", "of-old", "--all") == (["old"], "")
    assert listed("--since", "5d") == (["open", "young", "old", "older"], "")
    assert listed("--since", "3d") == ([], "")
    shown = typed("status")
    assert ("of-open" in shown.out, "older" in shown.out, left_out in shown.err) == (True, False, True)


@pytest.mark.usefixtures("batches")
def test_a_named_batch_is_shown_however_old_and_beside_no_filter(typed: Typed) -> None:
    ended = typed("status", "older")
    assert (ended.code, "of-older" in ended.out, ended.err) == (0, True, "")
    for options in (("--all",), ("--state", "done"), ("--since", "1d")):
        refused = typed("status", "older", *options)
        assert (refused.code, "it takes no batch beside them" in refused.err) == (2, True), options


def test_watching_ends_when_those_that_are_shown_have_ended(typed: Typed, engine: Engine) -> None:
    make(engine, open=None, young=12)
    ended = typed("status", "--name", "y*", "--watch", "--json")
    assert [each["name"] for each in ended.json] == ["young"]


def test_columns_that_no_batch_has_a_value_for_are_left_out(typed: Typed, engine: Engine) -> None:
    batch = make_batch(engine, 1, name="red")
    always = ["batch", "name", "state", *JobState, "rejected", "images/s", "ETA"]
    assert typed("status").out.splitlines()[0].split() == always
    make_batch(engine, [{"prompt": "fox", "tenant": "ada"}], name="blue")
    change(engine, "UPDATE batches SET deadline = '2126-01-01' WHERE name = 'blue'")
    actions.cancel(engine, batch.id)
    heading, red, blue = typed("status").out.splitlines()
    assert heading.split() == [*always, "deadline", "ended", "tenant"]
    assert ("2126-01-01" in blue, "ada" in blue, "2126" in red) == (True, True, False)
    assert red.split()[-2][:2].isdigit(), "when it ended"
