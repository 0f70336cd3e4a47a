"""`--on-end HOOK` of `submit` and `run`, and `change --set on_end=HOOK`."""

from pathlib import Path

from sqlalchemy import Engine

from jobs.settings import Settings
from tests.console.conftest import Typed, write_lines
from tests.factories import look

HOOKS = "SELECT policy ->> 'on_end' AS hook FROM batches ORDER BY id"


def test_a_hook_is_stored_changed_and_taken_back(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    write_lines(tmp_path / "foxes.jsonl", [{"prompt": "fox"}])
    done = typed("submit", "foxes.jsonl", "--on-end", "mailto:ada@example.com")
    assert done.code == 0, done.err
    assert look(engine, HOOKS) == [{"hook": "mailto:ada@example.com"}]
    again = typed("submit", "foxes.jsonl", "--on-end", "mailto:bob@example.com", "--json")
    assert (again.code, len(look(engine, HOOKS))) == (0, 1), "who is told makes no other batch"
    assert typed("change", "foxes", "--set", "on_end=https://example.com/hook").code == 0
    assert typed("status", "foxes", "--json").json["policy"]["on_end"] == "https://example.com/hook"
    assert "on end" in typed("status", "foxes").out
    assert typed("change", "foxes", "--set", "on_end=none").code == 0
    assert look(engine, HOOKS) == [{"hook": None}]


def test_commands_are_refused_unless_allowed(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    write_lines(tmp_path / "foxes.jsonl", [{"prompt": "fox"}])
    typed = Typed(settings, tmp_path)
    refused = typed("submit", "foxes.jsonl", "--on-end", "touch x")
    assert (refused.code, "NIGHTMILL_RUN_COMMANDS=on" in refused.err) == (2, True)
    assert look(engine, HOOKS) == []
    assert typed("submit", "foxes.jsonl").code == 0
    assert typed("change", "foxes", "--set", "on_end=touch x").code != 0
    allowing = Typed(settings.model_copy(update={"run_commands": "on"}), tmp_path)
    assert allowing("change", "foxes", "--set", "on_end=touch x").code == 0
    assert look(engine, HOOKS) == [{"hook": "touch x"}]
