"""Names in messages: none is left out without a word."""

import pytest

from jobs.suggest_names_and_shorten_lists import some_of


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a, b"),
        (["a", "b", "c"], "a, b and 1 more"),
        ([1] * 3_002, "1, 1 and 3,000 more"),
    ],
)
def test_names_that_are_not_listed_are_counted(names: list[object], listed: str) -> None:
    assert some_of(names, 2) == listed
