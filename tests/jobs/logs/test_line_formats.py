"""Log lines are text or JSON; neither has passwords, control characters or rows that PostgreSQL quotes."""

import json
import logging
import sys
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from jobs.logs import log_context
from jobs.logs.line_formats import JsonFormatter, TextFormatter
from jobs.settings import Settings
from tests.factories import make_lane

log = logging.getLogger("tests.lines")


def record(level: int, message: str, *values: object, **options: Any) -> logging.LogRecord:
    return log.makeRecord(
        log.name, level, "file.py", 1, message, values, options.pop("exc_info", None), **options
    )


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_json_line_has_the_fields_that_are_known() -> None:
    made = record(logging.INFO, "%d jobs", 3)
    made.created = 1_700_000_000.25
    assert as_json(made) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "INFO",
        "logger": "tests.lines",
        "message": "3 jobs",
        "process": made.process,
    }
    with log_context.noted(lane=7, batch=None):
        log_context.note(batch="foxes")
        found = as_json(record(logging.WARNING, "it failed", extra={"job": 12, "lease": "a-b"}))
        assert {name: found[name] for name in ("batch", "lane", "job", "lease")} == {
            "batch": "foxes",
            "lane": 7,
            "job": 12,
            "lease": "a-b",
        }
    assert "batch" not in as_json(record(logging.INFO, "later"))


def test_secrets_and_control_characters_are_in_neither_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_BROKER_URL", 'redis://me:very"secret@mill/0')
    try:
        raise ValueError('with very"secret\x1b[2J in it')
    except ValueError:
        made = record(logging.ERROR, 'very"secret \x07 \u202e two\nlines', exc_info=sys.exc_info())
    found = as_json(made)
    assert found["message"] == "*** \\x07 \\u202e two\nlines"
    assert found["traceback"].endswith("ValueError: with ***\\x1b[2J in it")
    shown = TextFormatter().format(made)
    assert shown.endswith("ValueError: with ***\\x1b[2J in it")
    assert "very" not in shown


def test_text_that_is_no_unicode_is_a_line_all_the_same() -> None:
    line = JsonFormatter().format(record(logging.INFO, "a name like \udc80"))
    assert json.loads(line.encode("utf-8", "backslashreplace"))["message"] == "a name like \udc80"


@pytest.mark.parametrize("made_by", [TextFormatter(), JsonFormatter()])
def test_a_row_that_postgres_quotes_is_left_out_above_debug(
    engine: Engine, servers: Settings, made_by: logging.Formatter
) -> None:
    make_lane(engine, [{"prompt": "zanzibar\nzanzibar"}])  # type: ignore[arg-type]
    with engine.begin() as connection, pytest.raises(IntegrityError, match="zanzibar") as raised:
        connection.execute(text("UPDATE jobs SET attempt = -1"))
    error = raised.value
    told = (type(error), error, error.__traceback__)
    assert "zanzibar" in made_by.format(record(logging.DEBUG, "why: %s", error))
    for made in (record(logging.ERROR, "why: %s", error), record(logging.ERROR, "why", exc_info=told)):
        line = made_by.format(made)
        assert "zanzibar" not in line
        assert "violates check constraint" in line
    server_log = (servers.data_dir / "postgres" / "log").read_text()
    assert "violates check constraint" in server_log
    assert "zanzibar" not in server_log
