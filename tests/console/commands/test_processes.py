"""What `nightmill worker` and `nightmill scheduler` say before the process begins."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs.settings import Settings
from tests.command_line import Nightmill


@pytest.fixture
def away(settings: Settings) -> Iterator[Settings]:
    """Settings with the address of a PostgreSQL that isn't there and can't begin to be."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"postgresql://me:very-secret@127.0.0.1:{bound.getsockname()[1]}/x"
        yield settings.model_copy(update={"database_url": SecretStr(url), "database_wait_s": 1.0})


@pytest.mark.parametrize("command", ["scheduler", "worker"])
def test_a_json_log_has_what_is_said_while_postgres_is_away(
    away: Settings, tmp_path: Path, command: str
) -> None:
    ended = Nightmill(away.model_copy(update={"log_format": "json"}), tmp_path)(command)
    waiting, failed = (json.loads(line) for line in ended.err.splitlines())
    assert (ended.code, ended.out, "very-secret" in ended.err) == (1, "", False)
    assert waiting["level"] == "WARNING"
    assert waiting["message"].startswith("PostgreSQL is away; waiting up to 1 s for it: ")
    assert failed["level"] == "CRITICAL"
    assert failed["message"].startswith("can't reach PostgreSQL at ")


def test_a_text_log_begins_with_plain_lines(away: Settings, tmp_path: Path) -> None:
    ended = Nightmill(away, tmp_path)("scheduler")
    waiting, failed = ended.err.splitlines()
    assert ended.code == 1
    assert waiting.startswith("PostgreSQL is away; ")
    assert failed.startswith("error: can't reach PostgreSQL at ")
