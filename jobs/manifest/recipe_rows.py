"""A recipe's rows: one record after the other, none of them kept."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from jobs.manifest.raw import Broken, Record, Records
from jobs.manifest.readers import read_records
from jobs.manifest.recipe import Recipe
from jobs.manifest.values import shown


def read_recipe(recipe: Recipe, renames: Mapping[str, str]) -> Records:
    """`recipe.rows` records in order, `line` being the recipe's; ManifestError if its prompts can't be read (on)."""
    names = {variable.name for template in recipe.templates for variable in template.variables}
    maker = _Maker(recipe, renames.get("prompt", "prompt"), names | {*recipe.sweep, *recipe.columns})
    for number, source in enumerate(_sources(recipe, renames)):
        yield from maker.make(number * recipe.prompts_each, source)


def _sources(recipe: Recipe, renames: Mapping[str, str]) -> Records:
    if recipe.prompts is None:
        return iter([Record(0, {}, "", False)])
    return islice(read_records(recipe.prompts.file, renames), recipe.prompts.count)


class _Maker:
    """Makes the records of one prompt of the file, or of the templates alone."""

    def __init__(self, recipe: Recipe, prompt: str, own: set[str]) -> None:
        self._recipe = recipe
        self._prompt = prompt
        self._own = own
        self._fixed = dict(recipe.columns)

    def make(self, first: int, source: Record | Broken) -> Records:
        """All records of one source, whose prompts are numbered from `first` on."""
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
        header = self._header(source.values)
        given = source.values.get(header)
        for template in self._recipe.templates:
            for choice in template.choices(first):
                prompt = given
                if self._recipe.prompts is None or isinstance(given, str):
                    prompt = template.text.format_map({**choice, "prompt": given})
                yield template.line, {**source.values, header: prompt, **choice, **self._fixed}
            first += template.count

    def _header(self, names: Mapping[str, Any]) -> str:
        """What the file calls its prompts."""
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
    """A row whose text is JSON, made only when somebody wants to see it."""

    __slots__ = ("_row",)

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row

    def __str__(self) -> str:
        return json.dumps(self._row, ensure_ascii=False)
