"""How strict the safety checker is: what is read, what is refused and where, and what it makes of scores."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import UsageError
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.parse_set_options import parse_policy
from jobs.policy.read_safety_thresholds_file import thresholds_of_file
from jobs.policy.safety_thresholds import SafetyThresholds, higher_scores, normalised, reason_of
from jobs.policy.stored_policy import row_of, safety_of
from jobs.states import SafetyStrength

LOW = -0.2


def scores(concepts: dict[int, float], care: dict[int, float] | None = None) -> dict[str, list[float]]:
    """Scores as stored, far below 0 unless given."""
    return {
        "concepts": [concepts.get(number, LOW) for number in range(17)],
        "special_care": [(care or {}).get(number, LOW) for number in range(3)],
    }


def above(
    strength: str, thresholds: str | None, concepts: dict[int, float], care: dict[int, float] | None = None
) -> dict[int, float]:
    return SafetyThresholds.of(SafetyStrength(strength), thresholds).above(scores(concepts, care))


def test_a_strength_is_added_to_every_score() -> None:
    near = {3: -0.015, 5: 0.015, 7: 0.03}
    assert above("standard", None, near) == {5: 0.015, 7: 0.03}
    assert above("strong", None, near) == {3: 0.005, 5: 0.035, 7: 0.05}
    assert above("lenient", None, near) == {7: 0.01}
    assert above("strong", None, {3: -0.02}) == {}, "flagged is what is above 0"
    assert above("standard", "all=0.02", near) == above("strong", None, near)


def test_thresholds_of_single_concepts_are_added_to_the_strength() -> None:
    assert above("standard", "3=0.02", {3: -0.015, 4: -0.015}) == {3: 0.005}
    assert above("lenient", "5=0.02", {5: 0.01, 6: 0.01}) == {5: 0.01}
    assert above("standard", "all=-0.01,5=0.01", {5: 0.01, 6: 0.01}) == {5: 0.01}


def test_special_care_adds_a_hundredth_as_the_new_policy_has_it() -> None:
    # Stored with the 0.01 that special care added; it does no longer, so that it is taken off.
    assert above("standard", None, {3: 0.005}, {1: 0.004}) == {3: 0.005}
    assert above("standard", "special_care.1=-0.01", {3: 0.005, 4: 0.02}, {1: 0.004}) == {4: 0.01}
    # Stored without; the new policy has it.
    assert above("standard", "special_care.0=0.02", {3: -0.005}, {0: -0.01}) == {3: 0.005}
    # A later special-care score was stored with it, too: alone, it is at 0.004 - 0.01.
    assert above("standard", "special_care.0=-0.01", {3: 0.005}, {0: 0.002, 1: 0.004}) == {}


THOUSANDTHS = st.integers(-40, 40).map(lambda number: number / 1000)
SCORES = st.builds(
    lambda concepts, care: {"concepts": concepts + [LOW] * 14, "special_care": care},
    st.lists(THOUSANDTHS, min_size=3, max_size=3),
    st.lists(THOUSANDTHS, min_size=3, max_size=3),
)


@given(SCORES, SCORES, st.sampled_from(SafetyStrength), THOUSANDTHS, THOUSANDTHS)
def test_what_flags_one_of_two_checks_flags_the_higher_scores(
    one: dict[str, list[float]],
    other: dict[str, list[float]],
    strength: SafetyStrength,
    concept: float,
    care: float,
) -> None:
    policy = SafetyThresholds.of(strength, f"0={concept},special_care.1={care}")
    higher = higher_scores(one, other)
    assert policy.above(higher).keys() >= policy.above(one).keys() | policy.above(other).keys()
    assert higher == higher_scores(other, one)
    assert higher_scores(one, one) == {name: tuple(values) for name, values in one.items()}


def test_a_reason_names_each_concept_with_its_score() -> None:
    assert reason_of({3: 0.005, 16: 0.12}) == "safety checker: concept 3 at +0.005, concept 16 at +0.120"
    names = ("triangle", "cross", "red circle", "square")
    assert reason_of({2: 0.25, 4: 0.1}, names) == "safety checker: red circle at +0.250, concept 4 at +0.100"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (" special_care.1 = -0.010 , 03=0.02,all=0", "3=0.02,special_care.1=-0.01"),
        ("16=2,0=-2,all=.5", "all=0.5,0=-2,16=2"),
        ("", None),
        ("3=0", None),
    ],
)
def test_thresholds_are_stored_in_one_form(given: str, stored: str | None) -> None:
    assert normalised(given) == stored
    policy = parse_policy({"safety_thresholds": given})
    assert policy.safety_thresholds == stored
    assert policy.identity() == (BatchPolicy().identity() | ({"safety_thresholds": stored} if stored else {}))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            "17=0.1",
            "'17=0.1': there is no such concept: there are all, the concepts 0 to 16, and special_care.0",
        ),
        ("special_care.3=0.1", "'special_care.3=0.1': there is no such concept"),
        (
            "nudity=0.1",
            "'nudity=0.1' is no adjustment: write it like 3=0.02; there are all, the concepts 0 to 16",
        ),
        ("3=x", "'3=x': x is no number"),
        ("3=nan", "from -2 to 2 with 3 decimals at most"),
        ("3=0.0004", "from -2 to 2 with 3 decimals at most"),
        ("3=2.5", "from -2 to 2 with 3 decimals at most"),
        ("3=0.1,3=0.2", "3 is given twice"),
        ("3", "'3' is no adjustment"),
    ],
)
def test_wrong_thresholds_are_refused_with_what_there_is(given: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy({"safety_thresholds": given})
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"--set safety_thresholds={given}: ")


def test_a_file_is_toml_or_json() -> None:
    toml = "all = 0.005\n[concepts]\n3 = 0.02\n[special_care]\n1 = -0.01\n"
    values = {"all": 0.005, "concepts": {"3": 0.02}, "special_care": {"1": -0.01}}
    assert thresholds_of_file("t.toml", toml) == ("all=0.005,3=0.02,special_care.1=-0.01", {})
    assert thresholds_of_file("t.json", json.dumps(values)) == ("all=0.005,3=0.02,special_care.1=-0.01", {})
    assert thresholds_of_file("t.toml", "") == (None, {})


def test_a_file_may_have_labels_of_further_checkers() -> None:
    given = thresholds_of_file("t.toml", '[labels."nsfw-vit"]\nnsfw = 0.9\n[labels.content-safety]\nHate = 2')
    assert given == (None, {"nsfw-vit": {"nsfw": 0.9}, "content-safety": {"Hate": 2.0}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "[concepts]\n17 = 0.1",
            "t.toml: concepts.17: there is no such concept: there are all, the concepts 0 to 16",
        ),
        ("[concepts]\nnudity = 0.1", "t.toml: concepts.nudity: there is no such concept"),
        ("[special_care]\n3 = 0.1", "t.toml: special_care.3: there is no such concept"),
        ("[concepts]\n3 = 'much'", 't.toml: concepts.3: "much" is no number'),
        ("all = true", "t.toml: all: true is no number"),
        ("[concepts]\n3 = 3.0", "t.toml: concepts.3: write a number from -2 to 2"),
        (
            "strength = 'strong'",
            "t.toml: strength: write `all = NUMBER`, or tables [concepts], [special_care] and [labels.CHECKER]",
        ),
        ("concepts = 3", "t.toml: concepts: write"),
        ("[concepts\n", "t.toml is no TOML file: "),
        ('{"concepts": ', "t.toml is no JSON file: "),
        ("[concepts]\n3 = 1979-05-27", "t.toml: concepts.3: "),
        pytest.param('{"a":' * 100_000, "t.toml: tables are nested too deeply", id="nested JSON"),
        pytest.param(f"a={'[' * 5000}", "t.toml: tables are nested too deeply", id="nested TOML"),
        pytest.param(f'{{"all": {"1" * 5000}}}', "t.toml is no JSON file: ", id="many digits"),
        pytest.param(f"all = 0x{'f' * 5000}", "t.toml: all: write a number from -2 to 2", id="hexadecimal"),
        pytest.param(f"all = [0x{'f' * 5000}]", "t.toml: all: a value of list is no number", id="list"),
        pytest.param(f"all{'.a' * 900} = 1", 't.toml: all: {"a": {"a"', id="dotted key"),
        pytest.param(
            f'{{"concepts": {{"{"1" * 5000}": 0.1}}}}', f"t.toml: concepts.{'1' * 71}…: there is", id="key"
        ),
        pytest.param(
            f'{{"special_care": {{"{"9" * 5000}": 0.1}}}}', f"t.toml: special_care.{'9' * 67}…: ", id="care"
        ),
        pytest.param(f'{{"{"k" * 900_000}": 1}}', f"t.toml: {'k' * 80}…: write `all", id="table"),
        pytest.param(f'{{"all": "{"k" * 900_000}"}}', f't.toml: all: "{"k" * 79}… is no number', id="text"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_place(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        thresholds_of_file("t.toml", text)
    assert str(caught.value).startswith(reason)
    assert len(str(caught.value)) < 400


def test_a_file_may_name_concepts_as_the_card_does() -> None:
    names = ("red triangle", "yellow cross")
    found = thresholds_of_file("t.toml", '[concepts]\n"yellow cross" = 0.02\n16 = 0.1', names)
    assert found.added == "1=0.02,16=0.1"
    with pytest.raises(
        UsageError, match=r"t.toml: concepts.cross: there is no such concept: .*; 0 is 'red triangle'"
    ):
        thresholds_of_file("t.toml", "[concepts]\ncross = 0.02", names)
    with pytest.raises(UsageError, match="concept 1 is given twice, by its name and its number"):
        thresholds_of_file("t.toml", '[concepts]\n"yellow cross" = 0.02\n1 = 0.1', names)


def test_equal_safety_policies_have_equal_texts() -> None:
    def text_of(**given: Any) -> str:
        return safety_of(parse_policy(given))

    assert text_of() == text_of(quality="80", safety_strength="standard") == "{}"
    assert text_of(safety_strength="strong") == '{"safety_strength": "strong"}'
    assert len({text_of(), text_of(safety="flag"), text_of(safety_thresholds="3=0.1")}) == 3
    assert row_of(parse_policy({"safety_strength": "strong"}))["policy"] == {"safety_strength": "strong"}
