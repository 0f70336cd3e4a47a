"""What is shown of long work where there is no terminal."""

import time

import pytest

from console.terminal import progress


def test_a_line_comes_now_and_then_though_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    told = ""
    with progress.counting("reading") as tell:
        while told.count("reading (") < 2:
            time.sleep(0.01)
            told += capsys.readouterr().err
        assert "1,000 rows" not in told
        tell(1_000)
        while "reading 1,000 rows" not in told:
            time.sleep(0.01)
            told += capsys.readouterr().err
