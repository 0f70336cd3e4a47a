"""The table of the chart's values, made from the comments of values.yaml."""

import re
from typing import Any

import yaml

from tests.infra.helm.chart import CHART

START, END = "<!-- values -->\n", "<!-- end of values -->"


def rows() -> dict[str, tuple[str, str]]:
    """Default and meaning of each value that has a comment right above it, by its path."""
    found: dict[str, tuple[str, str]] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# "):
            comment.append(stripped.removeprefix("# "))
            continue
        if key := re.match(r"( *)([A-Za-z0-9]+):(?: (.*))?$", line):
            indent = len(key[1])
            path = [(depth, name) for depth, name in path if depth < indent] + [(indent, key[2])]
            if comment:
                names = [name for _, name in path]
                found[".".join(names)] = (_default(values, names), " ".join(comment))
        comment = []
    return found


def leaves(values: Any, path: str = "") -> list[str]:
    """The paths of all values that are no tables with something in them."""
    if not (isinstance(values, dict) and values):
        return [path]
    return [leaf for key, value in values.items() for leaf in leaves(value, f"{path}.{key}" if path else key)]


def table() -> str:
    """The table, as Markdown."""
    lines = [f"| `{path}` | `{default}` | {meaning} |" for path, (default, meaning) in rows().items()]
    return "\n".join(["| value | default | |", "|---|---|---|", *lines]) + "\n"


def _default(values: Any, names: list[str]) -> str:
    for name in names:
        values = values[name]
    if isinstance(values, str):
        return values or '""'
    return yaml.safe_dump(values, default_flow_style=True, width=1000, sort_keys=False).split("\n")[0]
