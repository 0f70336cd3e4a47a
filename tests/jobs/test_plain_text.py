import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from jobs.plain_text import visible, without_secrets


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


def test_errors_of_statements_do_not_tell_prompts(engine: Engine) -> None:
    with pytest.raises(DBAPIError) as caught, engine.connect() as connection:
        connection.execute(text("SELECT :prompt FROM nowhere"), {"prompt": "a secret fox"})
    assert "secret fox" not in str(caught.value)
