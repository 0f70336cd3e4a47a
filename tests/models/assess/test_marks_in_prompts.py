"""Marks and unseen characters: left out where they only part a word, and kept in scripts that need them."""

import sys
import unicodedata

import pytest

from models.assess.prompt_filter import FoundTerm, PromptTerms

ALL = [chr(code) for code in range(sys.maxunicode + 1)]

OTHER_SCRIPTS = PromptTerms.parse(
    "\n".join(["كتاب", "كَلْب", "آدم", "ספר", "कमल", "नंगी औरत", "बिल्ली", "แมว", "สีแดง", "বিড়াল", "பூனை", "が"]),
    "list",
)


def marks(*categories: str) -> list[str]:
    return [sign for sign in ALL if unicodedata.category(sign) in categories]


@pytest.mark.parametrize("category", ["Mn", "Mc", "Me", "Cf", "Cc"])
def test_no_mark_or_invisible_character_hides_a_word(category: str) -> None:
    terms = PromptTerms.parse("nude", "list")
    signs = [sign for sign in marks(category) if sign not in "\t\n\v\f\r\x85"]
    assert len(signs) > 10
    spelt = [(f"n{sign}u{sign}d{sign}e", f"a {sign}nu{sign}de{sign} woman") for sign in signs]
    assert [texts for texts in spelt if not all(map(terms.find, texts))] == []


def test_no_mark_or_invisible_character_hides_a_disguise() -> None:
    terms = PromptTerms.parse("naked man", "list")
    signs = marks("Mn", "Mc", "Me", "Cf")
    assert [sign for sign in signs if not terms.find(f"a n{sign}4k3{sign}d m{sign}an")] == []


@pytest.mark.parametrize(
    ("prompt", "term"),
    [
        ("كتاب جميل", "كتاب"),
        ("كِتَابٌ جميل", "كتاب"),
        ("كلب كبير", "كَلْب"),
        ("كَلْبٌ كبير", "كَلْب"),
        ("آدم", "آدم"),
        ("ا\u0653دم", "آدم"),
        ("סֵפֶר ישן", "ספר"),
        ("कमल का फूल", "कमल"),
        ("एक नंगी औरत", "नंगी औरत"),
        ("एक बिल्ली, 8k", "बिल्ली"),
        ("ब\u0e31िल्ली", "बिल्ली"),
        ("แมว สวย", "แมว"),
        ("สีแดง", "สีแดง"),
        ("একটি বিড়াল", "বিড়াল"),
        ("பூனை", "பூனை"),
        ("か\u3099", "が"),
        ("هذا كتابي", None),
        ("ادم", None),
        ("ספרים", None),
        ("कमाल है", None),
        ("नंगा औरत", None),
        ("बिल्ला", None),
        ("बल्ली और बिल", None),
        ("แม่ว", None),
        ("สิแดง", None),
        ("বিড়ালের", None),
        ("பூன", None),
        ("か", None),
    ],
)
def test_words_of_scripts_with_marks_are_whole_words(prompt: str, term: str | None) -> None:
    assert OTHER_SCRIPTS.find(prompt) == (term and FoundTerm(term))


def test_many_marks_on_a_letter_are_no_trouble() -> None:
    assert PromptTerms.parse("nude", "list").find("n" + "\u0301\u0327" * 20_000 + "ude") is not None
