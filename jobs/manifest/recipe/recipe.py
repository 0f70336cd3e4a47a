"""A recipe: templates, variables and sweeps, and how many rows they make."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, product
from math import prod
from string import Formatter
from typing import Any, Self

from jobs.manifest.types import ManifestFile

MAX_TEXT = 2**20

Value = str | int | float
Choice = Mapping[str, Value]


@dataclass(frozen=True)
class Variable:
    """A name for one of `values`; `weights` are as many positive numbers, alike if there are none."""

    name: str
    values: tuple[Value, ...]
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class RandomDraw:
    """`count` draws a template and prompt; each depends on `seed`, the variable's name and its own number alone."""

    count: int
    seed: int = 0


@dataclass(frozen=True)
class Template:
    """A prompt in the form of `str.format`; `variables` are those in it, `line` is where it stands."""

    text: str
    line: int
    variables: tuple[Variable, ...] = ()
    draw: RandomDraw | None = None

    @property
    def count(self) -> int:
        """How many choices of variables it gives."""
        return self.draw.count if self.draw else prod(len(variable.values) for variable in self.variables)

    @cached_property
    def uses(self) -> Mapping[str, int]:
        """How often each name stands in it."""
        return Counter(name for _, name, _, _ in Formatter().parse(self.text) if name)

    @property
    def shortest(self) -> int:
        """No prompt that it gives has fewer characters."""
        written = sum(len(text) for text, *_ in Formatter().parse(self.text))
        return written + sum(
            self.uses[variable.name] * min(len(str(value)) for value in variable.values)
            for variable in self.variables
        )

    def fill(self, values: Mapping[str, object]) -> str:
        """The text with `values` for its names; of more than a million characters, no more than the beginning."""
        length = len(self.text) + sum(len(str(values[name])) * count for name, count in self.uses.items())
        return (
            self.text.format_map(values) if length <= MAX_TEXT else self.text[:MAX_TEXT].ljust(MAX_TEXT, "…")
        )

    def choices(self, first: int) -> Iterator[Choice]:
        """The values of its variables, choice by choice: all of them, the last variable's changing fastest, or drawn.

        `first` is the number of the first prompt that is made of them.
        """
        names = [variable.name for variable in self.variables]
        if self.draw is None:
            for values in product(*(variable.values for variable in self.variables)):
                yield dict(zip(names, values, strict=True))
            return
        pickers = self.pickers
        for number in range(first, first + self.draw.count):
            yield {name: picker.pick(number) for name, picker in zip(names, pickers, strict=True)}

    def choice(self, place: int, first: int) -> Choice:
        """The one of `choices(first)` that stands at `place`, from 0."""
        names = [variable.name for variable in self.variables]
        if self.draw is None:
            return dict(zip(names, nth([variable.values for variable in self.variables], place), strict=True))
        return {name: picker.pick(first + place) for name, picker in zip(names, self.pickers, strict=True)}

    @cached_property
    def pickers(self) -> "list[_Picker]":
        """What draws each of the variables."""
        seed = self.draw.seed if self.draw else 0
        return [_Picker(variable, seed) for variable in self.variables]


@dataclass(frozen=True)
class PromptFile:
    """A manifest whose first `count` rows give the prompts; `line` is where the recipe names it."""

    file: ManifestFile
    count: int
    line: int


@dataclass(frozen=True)
class Recipe:
    """Rows: of each prompt of `prompts`, of each template, of each choice of variables, of each value swept.

    Without `templates` the prompts are taken as they are. `columns` are the same in all rows. With `shares_seed` the
    rows of one prompt derive the same seeds. With a `sample`, of its rows only so many are made, evenly spread.
    """

    prompts: PromptFile | None = None
    templates: tuple[Template, ...] = ()
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    shares_seed: bool = True
    sample: int | None = None

    @property
    def rows(self) -> int:
        """The exact number of records."""
        return (self.prompts.count if self.prompts else 1) * self.prompts_each * self.rows_each

    @property
    def prompts_each(self) -> int:
        """How many prompts are made of one prompt of the file."""
        return sum(template.count for template in self.templates) if self.templates else 1

    @property
    def rows_each(self) -> int:
        """How many rows a prompt has."""
        return prod(len(values) for values in self.sweep.values())

    def sampled(self, rows: int) -> Self:
        """The same recipe, of which only so many rows are made."""
        return replace(self, sample=rows)


def nth(pools: Sequence[Sequence[Any]], place: int) -> list[Any]:
    """The combination at `place`, from 0, of those that `itertools.product(*pools)` gives."""
    picked = []
    for pool in reversed(pools):
        place, rest = divmod(place, len(pool))
        picked.append(pool[rest])
    return picked[::-1]


class _Picker:
    """Picks values by weight with a keyed hash (BLAKE2b) of a number, so that no draw depends on another."""

    def __init__(self, variable: Variable, seed: int) -> None:
        self._values = variable.values
        self._bounds = list(accumulate(variable.weights or [1.0] * len(variable.values)))
        self._key = blake2b(f"{seed} {variable.name}".encode(), digest_size=32).digest()

    def pick(self, number: int) -> Value:
        """The value of draw `number`."""
        digest = blake2b(number.to_bytes(16, "big"), digest_size=8, key=self._key).digest()
        share = (int.from_bytes(digest, "big") >> 11) / 2**53
        place = bisect_right(self._bounds, share * self._bounds[-1])
        return self._values[min(place, len(self._values) - 1)]
