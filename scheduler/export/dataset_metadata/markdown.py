"""Markdown with text of users in it."""

from collections.abc import Iterable, Sequence

_MARKUP = frozenset("|`*_[]\\!#~")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(text: str) -> str:
    """Return text that is shown as it is, up to 200 characters of it: no markup, no cells of tables, no HTML."""
    safe = " ".join(text.split())[:200].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"&#{ord(sign)};" if sign in _MARKUP else sign for sign in safe)


def megabytes(count: int) -> str:
    """Return a size in bytes for people."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"
