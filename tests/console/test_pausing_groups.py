"""`pause` and `resume` of a tenant's batches and of all: what was paused by itself stays paused."""

from sqlalchemy import Engine

from tests.console.conftest import Typed
from tests.factories import change, look, make_batch


def make(engine: Engine, **tenants: str) -> None:
    for name, tenant in tenants.items():
        make_batch(engine, [{"prompt": "fox", "tenant": tenant}], name=name)


def paused(engine: Engine) -> list[str]:
    found = look(engine, "SELECT name FROM batches WHERE paused_at IS NOT NULL ORDER BY id")
    return [row["name"] for row in found]


def test_what_was_paused_before_stays_paused(typed: Typed, engine: Engine) -> None:
    make(engine, red="ada", blue="ada", green="bob", grey="bob")
    assert typed("pause", "red", "grey", "--reason", "the GPU is hot").code == 0
    ended = typed("pause", "--all", "--reason", "maintenance")
    assert (ended.code, "4 batches paused" in ended.err) == (0, True)
    shown = typed("status", "red").out
    assert "the GPU is hot; since" in shown
    assert "with all: maintenance" in shown
    assert "blue is paused: maintenance" in typed("status").err
    assert "stay" not in typed("resume", "--name", "red", "--dry-run").err
    planned = typed("resume", "--all", "--dry-run")
    assert [line.split("\t")[0] for line in planned.out.splitlines()] == ["blue", "green"]
    resumed = typed("resume", "--all", "--json")
    assert [(each["name"], each["state"]) for each in resumed.json] == [
        ("blue", "queued"),
        ("green", "queued"),
    ]
    assert "2 batches resumed" in resumed.err
    assert "2 batches stay paused, by name: red, grey; `nightmill resume NAME` goes on" in resumed.err
    assert paused(engine) == ["red", "grey"]
    assert typed("status", "red", "--json").json["pauses"][0]["by"] == "name"
    assert len(typed("status", "red", "--json").json["pauses"]) == 1, "that of all has ended here, too"
    again = typed("resume", "--all")
    assert (again.code, "no batch is chosen, so none is resumed" in again.err) == (0, True)
    assert typed("resume", "red").code == 0
    assert paused(engine) == ["grey"]


def test_a_tenants_batches(typed: Typed, engine: Engine) -> None:
    make(engine, red="ada", blue="ada", green="bob")
    typed("pause", "red")
    assert "2 batches paused" in typed("pause", "--tenant", "ada").err
    assert paused(engine) == ["red", "blue"]
    (pause,) = typed("status", "blue", "--json").json["pauses"]
    assert (pause["by"], "@" in pause["who"], pause["reason"]) == ("tenant:ada", True, None)
    ended = typed("resume", "--all")
    assert "1 batch stays paused, by name and with those of tenant ada" in ended.err
    assert "1 batch stays paused, with those of tenant ada" in ended.err
    assert paused(engine) == ["red", "blue"]
    ended = typed("resume", "--tenant", "ada")
    assert "1 batch stays paused, by name: red" in ended.err
    assert paused(engine) == ["red"]


def test_a_canary_is_overruled_by_name_only(typed: Typed, engine: Engine) -> None:
    make(engine, red="ada", blue="ada")
    change(
        engine,
        "UPDATE batches SET paused_at = now(), canary_verdict = 'stopped', stopped_because = 'canary: 2 of 2 failed' "
        "WHERE name = 'red'",
    )
    typed("pause", "--all")
    for choice in (("--all",), ("--state", "paused")):
        ended = typed("resume", *choice)
        assert "1 batch stays paused, by a canary: red" in ended.err, choice
        assert typed("resume", *choice, "--dry-run").err.startswith("would be resumed: no batch")
        assert paused(engine) == ["red"]
    assert typed("resume", "red", "--json").json["canary"] == "overruled"


def test_batches_chosen_by_other_filters_are_paused_by_name(typed: Typed, engine: Engine) -> None:
    make(engine, red="ada", blue="ada", green="bob")
    typed("pause", "--tenant", "ada", "--name", "r*")
    typed("pause", "--tenant", "ada")
    typed("resume", "--tenant", "ada")
    assert paused(engine) == ["red"]
    assert "1 batch resumed" in typed("resume", "--name", "r*").err
    assert paused(engine) == []


def test_run_says_why_a_batch_is_paused(typed: Typed) -> None:
    (typed.folder / "m.jsonl").write_text('{"prompt": "fox"}\n')
    typed("submit", "m.jsonl")
    typed("pause", "m", "--reason", "the GPU is hot")
    ended = typed("run", "m.jsonl")
    assert (ended.code, "batch m is paused (the GPU is hot): `nightmill resume m` first" in ended.err) == (
        2,
        True,
    )
