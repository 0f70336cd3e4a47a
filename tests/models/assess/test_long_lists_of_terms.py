"""What a search costs with a long list of terms, in lines of code that are run."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from models.assess.prompt_filter import FoundTerm, PromptTerms

MANY = PromptTerms.parse("\n".join(f"naked {number}" for number in range(2_000)), "list")


def lines_run(call: Callable[[], Any]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("word", ["naked ", "nаked ", "naked z ", "n a k e d "])
def test_terms_that_begin_alike_cost_no_more_than_one(word: str) -> None:
    few = PromptTerms.parse("naked 9", "list")
    prompt = word * 50 + "é"
    assert MANY.find(prompt) is None
    assert lines_run(lambda: MANY.find(prompt)) < 1.5 * lines_run(lambda: few.find(prompt))


def test_a_prompt_of_twice_the_length_costs_twice_as_much() -> None:
    prompt = "nаked n a k e d z é "
    once, twice = lines_run(lambda: MANY.find(prompt * 50)), lines_run(lambda: MANY.find(prompt * 100))
    assert twice < 2.2 * once


def test_a_term_of_very_many_words_is_no_trouble() -> None:
    terms = PromptTerms.parse(" ".join(["bar"] * 3_000 + ["zebra"]), "list")
    assert terms.find("bär " * 31 + "zebra") is None
    assert terms.find("bär " * 4_000) == FoundTerm(terms.listed[0], is_disguised=True)


def test_a_term_of_more_than_32_words_counts_by_its_first() -> None:
    terms = PromptTerms.parse(" ".join(f"w{number}x" for number in range(40)), "list")
    assert terms.find(" ".join(f"w{number}x" for number in range(10))) is None
    assert terms.find(" ".join(f"w{number}x" for number in range(40))) is not None
