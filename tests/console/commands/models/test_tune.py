"""`nightmill models tune`."""

from pathlib import Path

import pytest

from jobs.settings import load_settings
from tests.console.conftest import Typed


@pytest.fixture
def cli(tmp_path: Path) -> Typed:
    settings = load_settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models", device="cpu")
    return Typed(settings, tmp_path)


def test_tries_keeps_shows_and_forgets(cli: Typed) -> None:
    tried = cli("models", "tune", "tiny", "--most", "2", "--json")
    assert tried.code == 0, tried.err
    found = tried.json
    assert found["site"] == "tiny-random 64x64 float32 full"
    assert set(found["tried"]) == {"1", "2"}
    assert min(found["tried"].values()) > 0
    assert str(found["rows"]) in found["tried"]
    assert "2 at once …" in tried.err
    other = cli("models", "tune", "tiny", "--most", "1", "--size", "128x64")
    assert other.out.splitlines()[-1].startswith("tiny-random 128x64 float32 full: 1 at once from now on (")

    shown = cli("models", "show", "tiny", "--json").json["at_once"]
    assert [one["site"] for one in shown] == [found["site"], "tiny-random 128x64 float32 full"]
    assert shown[0] == found
    assert "1 of tiny-random 128x64 float32 full (" in cli("models", "show", "tiny").out

    assert cli("models", "tune", "tiny", "--forget").out == "tiny-random: 2 found before, forgotten\n"
    assert cli("models", "tune", "tiny", "--forget", "--json").json == {"id": "tiny-random", "forgotten": 0}
    assert cli("models", "show", "tiny", "--json").json["at_once"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 2, "no model is called 'nothing'"),
        (["tiny-random-safety"], 2, "tiny-random-safety draws nothing"),
        (["tiny", "--size", "64"], 2, "--size 64: write it as 512x512"),
        (["tiny", "--size", "64x65"], 2, "in multiples of 8"),
        (["sd-v1-5"], 1, "nightmill models pull sd-v1-5"),
        (["tiny", "--most", "0"], 2, "--most"),
    ],
)
def test_says_what_is_wrong(cli: Typed, arguments: list[str], code: int, message: str) -> None:
    ended = cli("models", "tune", *arguments)
    assert (ended.code, message in ended.err, ended.out) == (code, True, ""), ended.err
    assert "Traceback" not in ended.err
    assert not (cli.folder / "models" / "capacity.json").exists()
