import subprocess
import sys
from pathlib import Path

import pytest

from models.assess.prompt_filter import FoundTerm, PromptTerms
from models.errors import ModelError


@pytest.fixture
def own(tmp_path: Path) -> PromptTerms:
    file = tmp_path / "terms.txt"
    file.write_bytes(
        "\ufeff# ours\r\nred  Apple\r\nSTRASSE # a street\r\n\r\ncafé\r\nred apple pie\r\n日本\r\n".encode()
    )
    return PromptTerms.load(file)


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("a red apple", "red  Apple"),
        ("a RED\n\tAPPLE pie", "red  Apple"),
        ("red, apple!", "red  Apple"),
        ("red-apple_pie", "red  Apple"),
        ("ｒｅｄ ａｐｐｌｅ", "red  Apple"),
        ("re\u200bd app\u00adle", "red  Apple"),
        ("eine lange Straße", "STRASSE"),
        ("un cafe\u0301", "café"),
        ("in 日本!", "日本"),
        ("red\nred apple", "red  Apple"),
        ("red apples", None),
        ("tired apple", None),
        ("apple red", None),
        ("cafeteria, cafe", None),
        ("ours", None),
        ("a street", None),
        ("red", None),
        ("", None),
    ],
)
def test_finds_whole_words_in_any_dress(own: PromptTerms, text: str, term: str | None) -> None:
    assert own.find(text) == (term and FoundTerm(term))


@pytest.mark.parametrize(
    "text", ["Hentai, 4k", "a NUDE woman on a sofa", "extreme gore", "PORN", "naked children"]
)
def test_the_built_in_list_stops_the_unmistakable(text: str) -> None:
    assert PromptTerms.load(None).find(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "Al Gore giving a speech",
        "a naked mole rat",
        "Scunthorpe, Essex and Middlesex on a map",
        "a nude lipstick on a marble table",
        "Judith beheading Holofernes, oil on canvas",
        "an anatomical drawing of the human body",
        "a sexton beetle",
        "Super Bowl XXX",
        "breast of chicken with lemon",
        "a cockerel and a blue tit",
        "the naked eye",
        "a bloody sunset over the corn field",
    ],
)
def test_the_built_in_list_lets_the_innocent_pass(text: str) -> None:
    assert PromptTerms.load(None).find(text) is None


def test_a_long_prompt_is_no_trouble() -> None:
    assert PromptTerms.load(None).find("naked " * 20_000 + "woman") == FoundTerm("naked woman")


@pytest.mark.parametrize(
    "text", ["n " * 20_000, "n." * 20_000, "ü1" * 20_000, "n4k3d " * 5_000, "裸" * 20_000]
)
def test_a_long_prompt_of_disguises_is_none_either(text: str) -> None:
    assert PromptTerms.parse("zebra", "list").find(text) is None


def test_a_bad_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"can't read the prompt terms in .*gone\.txt: No such file"):
        PromptTerms.load(tmp_path / "gone.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ModelError, match="not UTF-8 text"):
        PromptTerms.load(tmp_path / "latin.txt")
    (tmp_path / "dots.txt").write_text("fine\n...\n")
    with pytest.raises(ModelError, match=r"dots\.txt, line 2: '\.\.\.' holds no word"):
        PromptTerms.load(tmp_path / "dots.txt")
    with pytest.raises(ModelError, match=r"list, line 1: '!' holds no word"):
        PromptTerms.parse("! # what?", "list")


def test_needs_no_torch() -> None:
    code = "import sys, models.assess.prompt_filter; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
