"""Column names: the known columns, `--set` and `--map` arguments, header checks, and hints for misspelt names."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from jobs.errors import ManifestError, UsageError
from jobs.manifest.columns.spelling import suggest
from jobs.manifest.values import NOT_STORABLE, printable, shown
from jobs.suggest_names_and_shorten_lists import nearest, some_of

MAX_COLUMNS = 10_000
NEAR = 0.65
"""Minimum similarity, 0 to 1, of a suggested name: 'cta' and 'cat' reach it, 'colour' and 'lora' don't."""
KNOWN_COLUMNS: tuple[str, ...] = (
    "prompt",
    "id",
    "negative_prompt",
    "model",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "sampler",
    "seed",
    "num_images",
    "init_image",
    "mask_image",
    "depth_image",
    "strength",
    "lora",
    "upscale",
    "noise_level",
    "tenant",
)
# Names of the prompt column in other tools and data sets.
_PROMPTS = frozenset(
    {
        "caption",
        "captions",
        "text",
        "texts",
        "description",
        "inputs",
        "positive",
        "p",
        "txt",
        "sentence",
        "title",
    }
)
SETTABLE_COLUMNS: tuple[str, ...] = tuple(name for name in KNOWN_COLUMNS if name not in {"prompt", "id"})


def parse_overrides(pairs: Sequence[str], known: Collection[str] = SETTABLE_COLUMNS) -> dict[str, str]:
    """Parse `--set column=value` arguments; UsageError for a column that can't be set for all rows."""
    overrides: dict[str, str] = {}
    for pair in pairs:
        name, value = _split(pair, "--set", "column=value")
        if name in KNOWN_COLUMNS and name not in known:
            raise UsageError(
                f"--set {pair}: {name} differs from row to row; it can't be set for all of them."
            )
        _check_name(name, known, f"--set {shown(pair)}")
        if name in overrides:
            raise UsageError(f"--set {pair}: {name} is set twice; keep one.")
        if not value.strip():
            raise UsageError(
                f"--set {pair}: gives no value; --drop {name} leaves out the manifest's own column."
            )
        overrides[name] = value
    return overrides


def parse_renames(pairs: Sequence[str]) -> dict[str, str]:
    """Parse `--map column=Header` arguments into the file's header by known column."""
    renames: dict[str, str] = {}
    for pair in pairs:
        name, header = _split(pair, "--map", "column=Header")
        _check_name(name, KNOWN_COLUMNS, f"--map {shown(pair)}")
        if not header.strip():
            raise UsageError(f"--map {pair}: name the header that holds {name}, as in --map {name}=Header.")
        if name in renames:
            raise UsageError(f"--map {pair}: {name} is mapped twice; keep one.")
        if header in renames.values():
            raise UsageError(f"--map {pair}: the header {shown(header)} is mapped twice; keep one.")
        renames[name] = header
    return renames


def locate_columns(names: Sequence[str], renames: Mapping[str, str]) -> dict[str, str]:
    """Map each known column to the name in the file that holds it; ManifestError if two of `names` do."""
    places = {column: _mapped(header, names) for column, header in renames.items()}
    found = {column: name for column, name in places.items() if name is not None}
    taken = set(found.values())
    for name in names:
        column = name.strip().lower()
        if column not in KNOWN_COLUMNS or column in renames or name in taken:
            continue
        if column in found:
            raise ManifestError(
                f"columns {shown(found[column])} and {shown(name)} are both {column}; keep one"
            )
        found[column] = name
    return found


def find_misspelt(names: Sequence[str], located: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first of `names` that looks like a misspelt known column, with that column."""
    taken = set(located.values())
    for name in names:
        if name not in taken and name.strip().lower() not in KNOWN_COLUMNS:
            meant = suggest(name, KNOWN_COLUMNS)
            if meant is not None:
                return name, meant
    return None


def check_header(
    names: Sequence[str],
    renames: Mapping[str, str],
    label: str,
    values: Mapping[str, object] | None = None,
    *,
    is_table: bool = False,
) -> None:
    """Raise ManifestError for an unusable header: no prompt or init_image column, duplicate or too many names.

    `values` are those of the first row, if known; `is_table`: the names are separated by a delimiter.
    """
    if too_many := surplus_columns(len(names)):
        raise ManifestError(f"{label}: {too_many}.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(f"{label}: the header has {shown(twice[0])} twice; rename or remove one of them.")
    if any(NOT_STORABLE.search(name) for name in names):
        raise ManifestError(f"{label}: a column name holds a NUL character or invalid text; fix the header.")
    try:
        located = locate_columns(names, renames)
    except ManifestError as error:
        raise ManifestError(f"{label}: {error}.") from None
    mark = _separator(names[0], renames) if is_table and len(names) == 1 else None
    if mark and not {"prompt", "init_image"} & located.keys():
        raise ManifestError(
            f"{label}: the header {shown(names[0])} looks parted by {mark!r}: say --delimiter {mark!r}, "
            "or separate cells with commas (.csv) or tabs (.tsv)."
        )
    for column, header in renames.items():
        if column not in located:
            raise ManifestError(f"{label}: --map {column}={header}: no such column. {_seen(names, header)}")
    misspelt = find_misspelt(names, located)
    if not {"prompt", "init_image"} & located.keys() and (misspelt is None or misspelt[1] != "prompt"):
        hint = promptless_hint(names, values)
        raise ManifestError(f"{label}: there is no 'prompt' column. {_seen(names, '')} {hint}.")


def surplus_columns(count: int) -> str:
    """Return the message for too many columns; "" if the number is allowed."""
    if count <= MAX_COLUMNS:
        return ""
    return (
        f"has {count:,} columns; at most {MAX_COLUMNS:,} are read, so leave some out, or write them as rows"
    )


def promptless_hint(names: Sequence[str], values: Mapping[str, object] | None = None) -> str:
    """Return a hint for manifests without a prompt column: map another column, or extract nested rows."""
    for name, value in (values or {}).items():
        if isinstance(value, dict) and "prompt" in value:
            return f"{shown(name)} holds one: take it out with jq -c '.{name}'"
    guess = prompt_guess(names).lstrip("; ").capitalize()
    return f"{guess} If one of them holds the prompts, say so with --map prompt=Column".lstrip()


def prompt_guess(names: Sequence[str]) -> str:
    """Return `; did you mean 'caption' (--map prompt=caption)?`, or "" if no name looks like a prompt column."""
    near = next((name for name in names if name.strip().lower() in _PROMPTS), None)
    if near is None:
        lowered = {name.strip().lower(): name for name in names}
        near = (found := nearest("prompt", lowered, NEAR)) and lowered[found]
    return "" if near is None else f"; did you mean {shown(near)} (--map prompt={printable(near, 40)})?"


def did_you_mean(text: str, choices: Collection[str]) -> str:
    """Return `did you mean 'x'?` if one of `choices` is similar, else a list of the choices."""
    lowered = {choice.lower(): choice for choice in choices}
    if near := nearest(text.strip().lower(), lowered, NEAR):
        return f"did you mean {lowered[near]!r}?"
    return f"there are {some_of(sorted(choices), 30)}"


def _split(pair: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"{option} {shown(pair)}: write it as {option} {form}.")
    if NOT_STORABLE.search(value):
        raise UsageError(f"{option} {shown(pair)}: holds a NUL character or isn't UTF-8.")
    return name.strip().lower(), value


def _check_name(name: str, known: Collection[str], where: str) -> None:
    if name not in known:
        meant = suggest(name, known)
        hint = f"did you mean {meant!r}?" if meant else did_you_mean(name, known)
        raise UsageError(f"{where}: {shown(name)} is not a column that can be named here; {hint}")


def _mapped(header: str, names: Sequence[str]) -> str | None:
    if header in names:
        return header
    same = [name for name in names if name.strip().lower() == header.strip().lower()]
    return same[0] if same else None


def _separator(header: str, renames: Mapping[str, str]) -> str | None:
    """Guess the delimiter of a header that was read as one cell: one that yields the prompt column, or a usual one."""
    prompt = renames.get("prompt", "prompt").strip().lower()
    marks: list[str] = re.findall(r"[^\w \"'.()\[\]{}<>-]", header)
    for mark in dict.fromkeys(marks):
        cells = [cell.strip(" \"'").lower() for cell in header.split(mark)]
        if prompt in cells and all(cells):
            return mark
    return next((mark for mark in ";|\t," if mark in header), None)


def _seen(names: Sequence[str], wanted: str) -> str:
    listed = some_of([printable(name, 40) or "''" for name in names], 20)
    near = nearest(wanted.lower(), [name.lower() for name in names]) if wanted else None
    return f"The columns are: {listed}." + (f" Did you mean {near!r}?" if near else "")
