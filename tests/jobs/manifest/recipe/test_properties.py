import json
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.manifest import open_source
from jobs.manifest.recipe.recipe import RandomDraw, Template, Variable
from jobs.manifest.records_of_file_or_recipe import read_records
from tests.jobs.manifest.recipe.helpers import records, values, write

NAMES = ["colour", "shape", "größe", "_b", "n1"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6, allow_nan=False).map(
    lambda x: round(x, 3) + 0.5
)
LISTS = st.lists(TEXTS | NUMBERS, min_size=1, max_size=4, unique_by=repr)
SWEEPS = st.dictionaries(
    st.sampled_from(["guidance_scale", "steps", "tenant", "seed"]),
    st.lists(st.integers(0, 50), min_size=1, max_size=3, unique=True),
    max_size=3,
)


def made_of(recipe: dict[str, Any], prompts: list[str] | None = None) -> list[dict[str, Any]]:
    """JSON is YAML, so this writes a recipe whatever its texts hold."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        if prompts is not None:
            lines = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
            (Path(folder) / "p.jsonl").write_text(lines, encoding="utf-8")
        first = values(path)
        assert values(path) == first
        return first


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), LISTS, min_size=1, max_size=3), SWEEPS)
def test_a_product_is_that_of_itertools(variables: dict[str, list[Any]], sweep: dict[str, list[int]]) -> None:
    template = " ".join(f"{{{name}}}" for name in variables)
    made = made_of({"prompts": {"template": template}, "variables": variables, "sweep": sweep})
    expected = [
        {"prompt": template.format_map(choice)} | choice | dict(zip(sweep, swept, strict=True))
        for choice in (dict(zip(variables, chosen, strict=True)) for chosen in product(*variables.values()))
        for swept in product(*sweep.values())
    ]
    assert made == expected


@settings(max_examples=40, deadline=None)
@given(
    st.lists(TEXTS, min_size=1, max_size=5),
    st.integers(1, 7),
    st.lists(st.sampled_from(["", "{x}", "{y}", "{y}{x}"]), min_size=1, max_size=4, unique=True),
    st.none() | st.tuples(st.integers(1, 6), st.integers(0, 2**64 - 1)),
    SWEEPS,
)
def test_counts_are_exact(
    prompts: list[str],
    limit: int,
    templates: list[str],
    draw: tuple[int, int] | None,
    sweep: dict[str, list[int]],
) -> None:
    used = {name for name in "xy" if any(f"{{{name}}}" in template for template in templates)}
    variables = {name: [1, 2, 3][: 2 + (name == "y")] for name in sorted(used)}
    recipe: dict[str, Any] = {
        "prompts": {"file": "p.jsonl", "limit": limit, "template": ["{prompt}" + end for end in templates]},
        "variables": variables,
        "sweep": sweep,
    }
    if draw and variables:
        recipe["draw"] = {"random": draw[0], "seed": draw[1]}
    made = made_of(recipe, prompts)
    each = sum(
        draw[0] if draw and variables else (2 if "{x}" in end else 1) * (3 if "{y}" in end else 1)
        for end in templates
    )
    swept = 1
    for column in sweep.values():
        swept *= len(column)
    assert len(made) == min(limit, len(prompts)) * each * swept


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 10**14), st.integers(0, 60))
def test_a_draw_can_be_skipped_into(seed: int, first: int, skip: int) -> None:
    variables = (Variable("a", tuple(range(100))), Variable("b", ("x", "y"), (1.0, 9.0)))
    draws = list(Template("{a}{b}", 1, variables, RandomDraw(61, seed)).choices(first))
    assert (
        next(iter(Template("{a}{b}", 1, variables, RandomDraw(1, seed)).choices(first + skip))) == draws[skip]
    )


def chi_square(counts: Counter[Any], expected: dict[Any, float]) -> float:
    assert counts.keys() <= expected.keys()
    return sum((counts[value] - wanted) ** 2 / wanted for value, wanted in expected.items())


def test_draws_follow_their_weights() -> None:
    """Chi-square with 4 and 9 degrees of freedom stays below 18.5 and 27.9 in 999 of 1000 samples."""
    weights = (0.5, 1.0, 2.0, 4.0, 12.5)
    named = Variable("named", tuple("abcde"), weights)
    even = Variable("even", tuple(range(10)))
    for seed in (0, 1, 2**63):
        drawn = list(Template("", 1, (named, even), RandomDraw(20_000, seed)).choices(0))
        share = dict(zip("abcde", (20_000 * weight / 20 for weight in weights), strict=True))
        assert chi_square(Counter(choice["named"] for choice in drawn), share) < 18.5
        assert (
            chi_square(Counter(choice["even"] for choice in drawn), dict.fromkeys(range(10), 2000.0)) < 27.9
        )
        pairs = Counter((choice["named"] == "e", int(choice["even"]) % 2) for choice in drawn)
        both = {(big, odd): 20_000 * (0.625 if big else 0.375) / 2 for big in (True, False) for odd in (0, 1)}
        assert chi_square(pairs, both) < 16.3, "the variables depend on one another"


def test_seeds_of_prompts_never_meet() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        recipe = {
            "prompts": {"template": ["{x}", "again {x}"]},
            "variables": {"x": list(range(500))},
            "sweep": {"steps": [1, 2, 3]},
        }
        path.write_text(json.dumps(recipe))
        origins = [getattr(record, "seed_ordinal", None) for record in records(path)]
    assert origins == [prompt for prompt in range(1000) for _ in range(3)]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(1, 60))
def test_a_sample_is_of_the_records(prompts: int, words: int, swept: int, drawn: bool, sample: int) -> None:
    draw = f"draw: {{random: {words}, seed: 3}}" if drawn else ""
    text = f"""
        prompts: {{file: p.txt, template: ["{{prompt}} {{x}} {{y}}", "{{x}} {{prompt}}"]}}
        variables: {{x: {list(range(words))}, y: [a, b]}}
        {draw}
        sweep: {{steps: {list(range(1, swept + 1))}, guidance_scale: [1, 2]}}
        """
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), text, p_txt="".join(f"fox {number}\n" for number in range(prompts)))
        with open_source(str(path)) as manifest:
            whole = list(read_records(manifest, {}))
            some = list(read_records(manifest.sampled(sample), {}))
    assert len(some) == min(sample, len(whole))
    keys = [(record.line, record.values, record.seed_ordinal) for record in whole]  # type: ignore[union-attr]
    places = [keys.index((record.line, record.values, record.seed_ordinal)) for record in some]  # type: ignore[union-attr]
    if not drawn:
        assert places == sorted({*places})
