"""Data model of a recipe: templates, variables, sweeps, and the number of rows that they generate."""

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
    """A variable with its `values`; `weights` are positive, one per value; if empty, all are equal."""

    name: str
    values: tuple[Value, ...]
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class RandomDraw:
    """`count` random draws per template and prompt; a draw depends only on `seed`, the variable and its number."""

    count: int
    seed: int = 0


@dataclass(frozen=True)
class Template:
    """A prompt template in `str.format` syntax; `variables` are those used in it, `line` is its line in the recipe."""

    text: str
    line: int
    variables: tuple[Variable, ...] = ()
    draw: RandomDraw | None = None

    @property
    def count(self) -> int:
        """The number of choices of variables."""
        return self.draw.count if self.draw else prod(len(variable.values) for variable in self.variables)

    @cached_property
    def uses(self) -> Mapping[str, int]:
        """The number of occurrences of each name."""
        return Counter(name for _, name, _, _ in Formatter().parse(self.text) if name)

    @property
    def shortest(self) -> int:
        """A lower bound of the length of its prompts, in characters."""
        written = sum(len(text) for text, *_ in Formatter().parse(self.text))
        return written + sum(
            self.uses[variable.name] * min(len(str(value)) for value in variable.values)
            for variable in self.variables
        )

    def fill(self, values: Mapping[str, object]) -> str:
        """Fill in `values`; if the result had over 2**20 characters, return the text padded to 2**20 instead."""
        length = len(self.text) + sum(len(str(values[name])) * count for name, count in self.uses.items())
        return (
            self.text.format_map(values) if length <= MAX_TEXT else self.text[:MAX_TEXT].ljust(MAX_TEXT, "…")
        )

    def choices(self, first: int) -> Iterator[Choice]:
        """Yield the choices of variables: all combinations, the last variable changing fastest, or random draws.

        `first` is the number of the first prompt made of them.
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
        """Return the choice of `choices(first)` at index `place`, from 0."""
        names = [variable.name for variable in self.variables]
        if self.draw is None:
            return dict(zip(names, nth([variable.values for variable in self.variables], place), strict=True))
        return {name: picker.pick(first + place) for name, picker in zip(names, self.pickers, strict=True)}

    @cached_property
    def pickers(self) -> "list[_Picker]":
        """The random pickers of the variables, in order."""
        seed = self.draw.seed if self.draw else 0
        return [_Picker(variable, seed) for variable in self.variables]


@dataclass(frozen=True)
class PromptFile:
    """A manifest whose first `count` rows are the prompts; `line` is the recipe's line that names it."""

    file: ManifestFile
    count: int
    line: int


@dataclass(frozen=True)
class Recipe:
    """A recipe: its rows are the product of file prompts, templates, choices of variables and swept values.

    Without `templates`, the prompts are taken unchanged. `columns` are the same in all rows. With `shares_seed`, the
    rows of one prompt derive the same seeds. `sample` limits the rows to an evenly spread sample of this size.
    """

    prompts: PromptFile | None = None
    templates: tuple[Template, ...] = ()
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    shares_seed: bool = True
    sample: int | None = None

    @property
    def rows(self) -> int:
        """The exact number of rows, without `sample`."""
        return (self.prompts.count if self.prompts else 1) * self.prompts_each * self.rows_each

    @property
    def prompts_each(self) -> int:
        """The number of prompts made from one prompt of the file."""
        return sum(template.count for template in self.templates) if self.templates else 1

    @property
    def rows_each(self) -> int:
        """The number of rows per prompt."""
        return prod(len(values) for values in self.sweep.values())

    def sampled(self, rows: int) -> Self:
        """Return a copy that generates a sample of this many rows."""
        return replace(self, sample=rows)


def nth(pools: Sequence[Sequence[Any]], place: int) -> list[Any]:
    """Return the combination at index `place`, from 0, of `itertools.product(*pools)`."""
    picked = []
    for pool in reversed(pools):
        place, rest = divmod(place, len(pool))
        picked.append(pool[rest])
    return picked[::-1]


class _Picker:
    """Picks weighted values by a keyed hash (BLAKE2b) of a number, so that draws are independent of each other."""

    def __init__(self, variable: Variable, seed: int) -> None:
        self._values = variable.values
        self._bounds = list(accumulate(variable.weights or [1.0] * len(variable.values)))
        self._key = blake2b(f"{seed} {variable.name}".encode(), digest_size=32).digest()

    def pick(self, number: int) -> Value:
        """Return the value of draw `number`."""
        digest = blake2b(number.to_bytes(16, "big"), digest_size=8, key=self._key).digest()
        share = (int.from_bytes(digest, "big") >> 11) / 2**53
        place = bisect_right(self._bounds, share * self._bounds[-1])
        return self._values[min(place, len(self._values) - 1)]
