"""Parse the text of a recipe into a Recipe; errors give file, line, column and advice."""

from collections.abc import Callable, Collection
from itertools import islice
from math import log10
from typing import Any

from jobs.errors import ManifestError
from jobs.manifest.columns.header import KNOWN_COLUMNS, NEAR, SETTABLE_COLUMNS, did_you_mean
from jobs.manifest.columns.spelling import suggest
from jobs.manifest.formats.dispatch import read_file_records
from jobs.manifest.recipe.recipe import PromptFile, RandomDraw, Recipe, Variable
from jobs.manifest.recipe.templates import read_templates
from jobs.manifest.recipe.variables import read_variable
from jobs.manifest.recipe.yaml_nodes import Node, Pairs, read_yaml
from jobs.manifest.types import SEED_SPACE, Format, ManifestFile
from jobs.manifest.values import shown
from jobs.suggest_names_and_shorten_lists import nearest

OpenFile = Callable[[str, Format | None], ManifestFile]

MAX_COUNT = 10**15
_MAX_NAMES = 1_000
_KEYS = ("prompts", "variables", "draw", "sweep", "columns", "share_seed")
_PROMPT_KEYS = ("template", "file", "limit")


def parse_recipe(text: str, label: str, open_file: OpenFile, prompt_header: str = "prompt") -> Recipe:
    """Parse a recipe; `open_file(name, format)` opens the files that it names.

    The rows of the prompt file are counted; `prompt_header` is the header of the prompts. Raises ManifestError.
    """
    root = read_yaml(text, label)
    parts = _fields(root, "a recipe", _KEYS)
    if "prompts" not in parts:
        raise root.error("there is no 'prompts'; give a template or a file of prompts")
    prompts = _fields(parts["prompts"], "prompts", _PROMPT_KEYS)
    own = _own_names(parts)
    variables = [_variable(key, node, open_file) for key, node in own["variables"]]
    templates = read_templates(
        prompts.get("template"), own["variables"], variables, _draw(parts, variables), "file" in prompts
    )
    if not templates and "file" not in prompts:
        raise parts["prompts"].error("there are no prompts; give a template or a file of prompts")
    recipe = Recipe(
        prompts=_prompt_file(prompts, open_file, prompt_header),
        templates=templates,
        sweep={key.text: _swept(key, node) for key, node in own["sweep"]},
        columns={key.text: _fixed(key, node) for key, node in own["columns"]},
        shares_seed=_truth(parts.get("share_seed"), True),
    )
    if recipe.rows > MAX_COUNT:
        power = int(log10(recipe.rows))
        raise root.error(f"makes over 10^{power} rows; at most 10^15 are counted, and far fewer drawn")
    return recipe


def _fields(node: Node, what: str, known: Collection[str]) -> dict[str, Node]:
    """Return the values of a mapping by key; ManifestError for unknown keys."""
    for key, _ in node.pairs(what):
        if key.text not in known:
            raise key.error(f"{what} has no key {shown(key.text)}; {did_you_mean(key.text, known)}")
    return {key.text: value for key, value in node.pairs(what)}


def _own_names(parts: dict[str, Node]) -> dict[str, Pairs]:
    """Return the pairs of each part that defines columns; ManifestError if two parts define the same column."""
    found: dict[str, Pairs] = {}
    lines: dict[str, int] = {}
    for part in ("variables", "sweep", "columns"):
        found[part] = parts[part].pairs(part) if part in parts else []
        if len(found[part]) > _MAX_NAMES:
            raise parts[part].error(f"has {len(found[part]):,} {part}; at most {_MAX_NAMES:,} are read")
        for key, _ in found[part]:
            if key.text in lines:
                raise key.error(f"{shown(key.text)} is made on line {lines[key.text]} already; keep one")
            lines[key.text] = key.line
    return found


def _prompt_file(prompts: dict[str, Node], open_file: OpenFile, header: str) -> PromptFile | None:
    node, limit = prompts.get("file"), prompts.get("limit")
    if node is None:
        if limit:
            raise limit.error("limit is for a file of prompts; there is none")
        return None
    file = _opened(node, open_file, None)
    if file.format == "recipe":
        raise node.error(f"{file.label} is a recipe itself; name a file of prompts")
    most = _whole(limit, "limit", 1, MAX_COUNT) if limit else None
    renames = {} if header == "prompt" else {"prompt": header}
    count = sum(1 for _ in islice(read_file_records(file, renames), most))
    if not count:
        raise node.error(f"{file.label} holds no prompts")
    return PromptFile(file, count, node.line)


def _variable(key: Node, node: Node, open_file: OpenFile) -> Variable:
    name = key.text
    if not name.isidentifier():
        raise key.error(
            f"{shown(name)} can't name a variable; use letters, digits and _, as in {{small_animal}}"
        )
    meant = suggest(name, KNOWN_COLUMNS) or (name.lower() in KNOWN_COLUMNS and name.lower())
    if meant:
        raise key.error(
            f"the variable {shown(name)} is or looks like the column {meant!r}; choose another name"
        )
    return read_variable(name, node, lambda file: _opened(file, open_file, "txt"))


def _opened(node: Node, open_file: OpenFile, format: Format | None) -> ManifestFile:
    if not isinstance(node.value, str) or node.value in ("", "-"):
        raise node.error("the name of a file has to stand here, relative to the recipe")
    try:
        return open_file(node.value, format)
    except ManifestError as error:
        raise node.error(str(error).rstrip(".")) from None


def _draw(parts: dict[str, Node], variables: Collection[Variable]) -> RandomDraw | None:
    node = parts.get("draw")
    if node is not None and not variables:
        raise node.error("there are no variables to draw")
    if node is None or node.value == "product":
        weighted = next((variable.name for variable in variables if variable.weights), None)
        if weighted:
            raise parts["variables"].error(
                f"{weighted} has weights, which say how often a value is drawn; write draw: {{random: 1000, seed: 0}}"
            )
        return None
    if not isinstance(node.value, dict):
        raise node.error("draw has to be 'product' or {random: how many, seed: number}")
    fields = _fields(node, "draw", ("random", "seed"))
    if "random" not in fields:
        raise node.error("say how many to draw, as in {random: 1000, seed: 0}")
    seed = fields.get("seed")
    return RandomDraw(
        _whole(fields["random"], "random", 1, MAX_COUNT),
        _whole(seed, "seed", 0, SEED_SPACE - 1) if seed else 0,
    )


def _swept(key: Node, node: Node) -> tuple[Any, ...]:
    if key.text not in SETTABLE_COLUMNS:
        raise key.error(f"{shown(key.text)} is not a column that can be swept; {_hint(key.text)}")
    if not isinstance(node.value, list):
        raise node.error(
            f"a sweep of {key.text} is a list of values; one value for all rows belongs under columns"
        )
    return tuple(node.distinct_scalars(key.text))


def _fixed(key: Node, node: Node) -> Any:
    name = key.text
    if name.lower() in ("prompt", "id"):
        raise key.error(f"{name} differs from row to row; it can't be the same in all of them")
    meant = suggest(name, KNOWN_COLUMNS)
    if name not in SETTABLE_COLUMNS and meant:
        raise key.error(f"column {shown(name)} is not known; did you mean {meant!r}?")
    if name in SETTABLE_COLUMNS and isinstance(node.value, list | dict):
        raise node.error(f"{name} has one value here; a list of them belongs under sweep")
    return node.plain()


def _hint(name: str) -> str:
    meant = suggest(name, SETTABLE_COLUMNS) or nearest(name, SETTABLE_COLUMNS, NEAR)
    return f"did you mean {meant!r}?" if meant else f"there are {', '.join(SETTABLE_COLUMNS)}"


def _whole(node: Node, what: str, low: int, high: int) -> int:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise node.error(f"{what} must be a whole number from {low} to {high:,}, not {shown(node.plain())}")
    return value


def _truth(node: Node | None, default: bool) -> bool:
    if node is None:
        return default
    if not isinstance(node.value, bool):
        raise node.error(f"share_seed must be true or false, not {shown(node.plain())}")
    return node.value
