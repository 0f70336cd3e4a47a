"""Expand a recipe into its records, generated one at a time."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from jobs.manifest.formats.dispatch import read_file_records
from jobs.manifest.raw_record import Broken, Record, Records
from jobs.manifest.recipe.recipe import Choice, Recipe, Template, nth
from jobs.manifest.values import shown

_GOLDEN = 0x9E3779B97F4A7C15


def read_recipe(recipe: Recipe, renames: Mapping[str, str]) -> Records:
    """Generate the recipe's records in order; `line` is the recipe's. ManifestError if its prompts can't be read."""
    names = {variable.name for template in recipe.templates for variable in template.variables}
    maker = _Maker(recipe, renames.get("prompt", "prompt"), names | {*recipe.sweep, *recipe.columns})
    sources = enumerate(_sources(recipe, renames))
    if recipe.sample is not None and recipe.sample < recipe.rows:
        yield from _sampled(recipe, maker, sources, recipe.sample)
        return
    for number, source in sources:
        yield from maker.make(number * recipe.prompts_each, source)


def _sampled(
    recipe: Recipe, maker: "_Maker", sources: Iterator[tuple[int, Record | Broken]], count: int
) -> Records:
    """Yield a stratified sample of `count` records, one from each equal part, not aligned with periods of the sweep."""
    rows, each = recipe.rows, recipe.prompts_each * recipe.rows_each
    at, source = next(sources)
    for part in range(count):
        low, high = part * rows // count, (part + 1) * rows // count
        number, place = divmod(low + _GOLDEN * (part + 1) % (high - low), each)
        while at < number:
            at, source = next(sources)
        yield maker.at(number * recipe.prompts_each, source, place)


def _sources(recipe: Recipe, renames: Mapping[str, str]) -> Records:
    if recipe.prompts is None:
        return iter([Record(0, {}, "", False)])
    return islice(read_file_records(recipe.prompts.file, renames), recipe.prompts.count)


class _Maker:
    """Makes the records of one prompt of the file, or of the templates if there is no file."""

    def __init__(self, recipe: Recipe, prompt: str, own: set[str]) -> None:
        self._recipe = recipe
        self._prompt = prompt
        self._own = own
        self._fixed = dict(recipe.columns)

    def make(self, first: int, source: Record | Broken) -> Records:
        """Return all records of one source, whose prompts are numbered from `first` on."""
        source = self._checked(source)
        if isinstance(source, Broken):
            count = self._recipe.prompts_each * self._recipe.rows_each
            return (source for _ in range(count))
        return self._rows(first, source)

    def _rows(self, first: int, source: Record) -> Records:
        for number, (line, values) in enumerate(self._prompts(first, source), first):
            origin = number if self._recipe.shares_seed else None
            for swept in product(*self._recipe.sweep.values()):
                row = values | dict(zip(self._recipe.sweep, swept, strict=True))
                yield Record(line, row, _Excerpt(row), source.suspect, origin)

    def _prompts(self, first: int, source: Record) -> Iterator[tuple[int, dict[str, Any]]]:
        if not self._recipe.templates:
            assert self._recipe.prompts
            yield self._recipe.prompts.line, source.values | self._fixed
        for template in self._recipe.templates:
            for choice in template.choices(first):
                yield template.line, self._filled(template, source, choice)
            first += template.count

    def at(self, first: int, source: Record | Broken, place: int) -> Record | Broken:
        """Return the record of `make(first, source)` at index `place`, from 0."""
        source = self._checked(source)
        if isinstance(source, Broken):
            return source
        number, swept = divmod(place, self._recipe.rows_each)
        line, values = self._prompt_at(first, source, number)
        names = self._recipe.sweep
        row = values | dict(zip(names, nth(list(names.values()), swept), strict=True))
        return Record(
            line, row, _Excerpt(row), source.suspect, first + number if self._recipe.shares_seed else None
        )

    def _prompt_at(self, first: int, source: Record, number: int) -> tuple[int, dict[str, Any]]:
        """Return the item of `_prompts` at index `number`, from 0."""
        if not self._recipe.templates:
            return next(self._prompts(first, source))
        for template in self._recipe.templates:
            if number < template.count:
                return template.line, self._filled(template, source, template.choice(number, first))
            number -= template.count
            first += template.count
        raise IndexError(number)

    def _filled(self, template: Template, source: Record, choice: Choice) -> dict[str, Any]:
        header = self._header(source.values)
        given = source.values.get(header)
        prompt = given
        if self._recipe.prompts is None or isinstance(given, str):
            prompt = template.fill({**choice, "prompt": given})
        return {**source.values, header: prompt, **choice, **self._fixed}

    def _header(self, names: Mapping[str, Any]) -> str:
        """Return the file's name of the prompt column."""
        wanted = self._prompt.strip().lower()
        return next((name for name in names if name.strip().lower() == wanted), self._prompt)

    def _checked(self, source: Record | Broken) -> Record | Broken:
        file = self._recipe.prompts
        if file is None:
            return source
        place = f"{file.file.label}, line {source.line}"
        if isinstance(source, Broken):
            return Broken(file.line, f"{place}: {source.reason}", source.raw, source.column)
        twice = self._own.intersection(source.values)
        if not twice:
            return source
        name = min(twice)
        reason = f"{place}: the recipe has a {shown(name)} of its own; rename or remove one of them"
        return Broken(file.line, reason, source.raw, name)


class _Excerpt:
    """A row whose `str` is JSON, serialised only on demand."""

    __slots__ = ("_row",)

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row

    def __str__(self) -> str:
        return json.dumps(self._row, ensure_ascii=False)
