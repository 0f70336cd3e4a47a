"""What is shown of long work where there is no terminal."""

import time

import pytest

from console.terminal import progress


@pytest.mark.parametrize(
    ("per_s", "told"),
    [(12_345.6, "12,346/s"), (10, "10/s"), (2.34, "2.3/s"), (0.5, "30.0/min"), (0, "0.0/min")],
)
def test_slow_rates_are_told_with_decimals_or_a_minute(per_s: float, told: str) -> None:
    assert progress._rate(per_s) == told


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
