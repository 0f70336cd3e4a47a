"""Detect text files whose lines are no prompts (source code, settings, documents) by suffix or first lines."""

import re
from collections.abc import Sequence
from itertools import pairwise

from jobs.errors import ManifestError

_BY_SUFFIX = {
    "a program": (
        "bash bat c cc cmd cpp cs fish go h hpp ipynb java js jsx kt lua mjs php pl ps1 py r rb rs scala sh sql swift "
        "ts tsx vue zsh"
    ),
    "a file of settings": "cfg cnf conf env ini properties toml",
    "a document": "adoc bib htm html markdown md org rst svg tex xhtml xml",
    "a style sheet": "css less scss",
    "a log": "log",
    "a patch": "diff patch",
    "subtitles": "srt vtt",
}
_KINDS = {suffix: kind for kind, suffixes in _BY_SUFFIX.items() for suffix in suffixes.split()}

_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*")
_SECTION = re.compile(r"\s*\[{1,2}[\w .\"':-]+\]{1,2}\s*(?:[#;].*)?")
_SETTING = re.compile(r"\s*(?:export\s+)?[A-Za-z_][\w.-]*\s*=.*")
_FIRST_LINES = (
    (
        re.compile(r"#include\s*[<\"]|from [\w.]+ import |import [\w.]+;?$|<\?php|package [\w.]+;?$"),
        "a program",
    ),
    (re.compile(r"---\s*$|%YAML|-\s+\w+:\s"), "YAML"),
    (re.compile(r"#{1,6}\s+\S|```"), "a Markdown document"),
    (re.compile(r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d"), "a log"),
    (re.compile(r"diff --git |--- a/"), "a patch"),
)


def refuse_other_texts(lines: Sequence[str], label: str, suffix: str, *, is_named: bool) -> None:
    """Raise ManifestError if the first `lines` or the file's `suffix` are those of a program or a document.

    `is_named`: the file is known to hold prompts or a table; then only unmistakable scripts and Markdown tables are
    refused.
    """
    lines = [line for line in lines if line.strip()]
    kind = _surely(lines)
    if kind is None and not is_named:
        kind = _likely(lines)
    if kind:
        raise ManifestError(f"{label}: seems to be {kind}; {_REMEDY}")
    if not is_named and suffix.lower() in _KINDS:
        raise ManifestError(f"{label}: is named as {_KINDS[suffix.lower()]}; {_REMEDY}")


_REMEDY = "write the prompts into a .txt file or a table, or give --input-format txt to draw all its lines."


def _surely(lines: Sequence[str]) -> str | None:
    if lines and lines[0].startswith("#!/"):
        return f"a script ({lines[0][:40].strip()})"
    if any("|" in above and "|" in line and _RULE.fullmatch(line) for above, line in pairwise(lines)):
        return "a Markdown table"
    return None


def _likely(lines: Sequence[str]) -> str | None:
    first = lines[0] if lines else ""
    if _are_settings([line for line in lines if line.lstrip()[:1] not in {"#", ";"}]):
        return "a file of settings (TOML, INI)"
    return next((kind for pattern, kind in _FIRST_LINES if pattern.match(first)), None)


def _are_settings(lines: Sequence[str]) -> bool:
    """Whether the lines begin with a section and have a setting, or are all settings."""
    settings = sum(_SETTING.fullmatch(line) is not None for line in lines)
    has_section = bool(lines) and _SECTION.fullmatch(lines[0]) is not None
    return settings > 0 if has_section else 1 < settings == len(lines)
