import logging
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from jobs.errors import UsageError
from jobs.logs.start_logging import start_logging
from jobs.mask_passwords_and_escape_text import visible, without_secrets
from jobs.unexpected_errors import plain_errors


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("line\r\nnext\ttab", "line\\r\nnext\ttab"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("füchse 狐狸 👩‍🎨", "füchse 狐狸 👩‍🎨"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(given: str, shown: str) -> None:
    assert visible(given) == shown


def test_passwords_of_the_settings_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", "postgresql://me:p%40ss-one@h/d?sslpassword=two-of%26two")
    monkeypatch.setenv("NIGHTMILL_BROKER_URL", "redis://[third-of-three")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fourth-of-four")
    told = "p%40ss-one p@ss-one two-of%26two two-of&two redis://[third-of-three fourth-of-four me h d"
    assert without_secrets(told) == "*** *** *** *** *** *** me h d"


def test_passwords_in_files_are_masked_and_where_they_lie_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "nightmill_database_url").write_text("postgresql://me:one-of-two@h/d\n")
    (folder / "nightmill_broker_url").write_bytes(b"redis://:two-of-two@h/0")
    monkeypatch.setenv("NIGHTMILL_SECRETS_DIR", str(folder))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/etc/key")
    assert without_secrets(f"one-of-two two-of-two {folder} /etc/key") == f"*** *** {folder} /etc/key"
    monkeypatch.setenv("NIGHTMILL_SECRETS_DIR", str(tmp_path / "absent"))
    assert without_secrets(f"two-of-two {tmp_path / 'absent'}") == f"two-of-two {tmp_path / 'absent'}"


def test_errors_of_statements_do_not_tell_prompts(engine: Engine) -> None:
    with pytest.raises(DBAPIError) as caught, engine.connect() as connection:
        connection.execute(text("SELECT :prompt FROM nowhere"), {"prompt": "a secret fox"})
    assert "secret fox" not in str(caught.value)


def test_a_process_ends_with_one_line_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTMILL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("NIGHTMILL_BROKER_URL", "redis://:very-secret@h/0")
    errors: list[tuple[BaseException, int]] = [
        (ZeroDivisionError("\x1b[2J very-secret\nmore"), 1),
        (UsageError("wrong"), 2),
        (KeyboardInterrupt(), 130),
    ]
    for error, code in errors:
        with pytest.raises(SystemExit) as ended, plain_errors():
            raise error
        assert ended.value.code == code
    said = capsys.readouterr().err.splitlines()
    log = tmp_path / "logs" / "errors.log"
    assert said == [
        rf"error: this should not happen, ZeroDivisionError: \x1b[2J ***; the traceback is in {log}",
        "error: wrong",
    ]
    assert log.read_text().count("Traceback") == 1
    assert "very-secret" not in log.read_text()


def test_the_log_of_errors_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTMILL_DATA_DIR", str(tmp_path))
    log, foreign = tmp_path / "logs" / "errors.log", tmp_path / "foreign"
    for _ in range(12):
        with pytest.raises(SystemExit), plain_errors():
            raise ZeroDivisionError("x" * 3_000_000)
    kept = sorted(path.name for path in log.parent.iterdir())
    assert kept == ["errors.log", "errors.log.1"]
    assert all(path.stat().st_size < 2**20 + 2**19 for path in log.parent.iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in log.parent.iterdir())
    foreign.write_bytes(bytes(2**21))
    for name in kept:
        (log.parent / name).unlink()
        (log.parent / name).symlink_to(foreign)
    with pytest.raises(SystemExit), plain_errors():
        raise ZeroDivisionError
    assert foreign.read_bytes() == bytes(2**21)
    assert "the traceback is in" in capsys.readouterr().err


def test_logs_hold_no_password_and_no_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTMILL_BROKER_URL", "redis://:very-secret@h/0")
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    level = root.level
    start_logging("INFO")
    logging.getLogger("tests").error("connecting with %s\x1b[2J", "very-secret")
    root.setLevel(level)
    assert capsys.readouterr().err.endswith("connecting with ***\\x1b[2J\n")
