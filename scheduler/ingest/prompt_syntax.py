"""Detects other tools' prompt syntax, which Stable Diffusion itself takes as literal text."""

import re

KINDS: dict[str, re.Pattern[str]] = {
    "weights, as in (word:1.3)": re.compile(r"\([^()]*:\s*-?[0-9.]+\s*\)"),
    "emphasis, as in ((word)) or [[word]]": re.compile(r"\(\(|\[\["),
    "emphasis, as in (word)++ or word::2": re.compile(r"\)[+-]+|\w{2,}\+\+(?!\w)|::-?[0-9]"),
    "prompt editing, as in [a:b:0.5] or [a|b]": re.compile(r"\[[^\[\]]*[:|][^\[\]]*\]"),
    "choices, as in {a|b}": re.compile(r"\{[^{}]*\|[^{}]*\}"),
    "wildcards, as in __word__": re.compile(r"__[A-Za-z0-9*][\w/*.-]*?__"),
    "parts, as in AND or BREAK": re.compile(r"\s(?:AND|BREAK)\s"),
    "options, as in --steps 4": re.compile(r"(?:\s|^)(?:--|—)[a-z][\w-]*"),
    "a negative prompt, as in ### word": re.compile(r"\s###\s"),
    "generation parameters, as in Steps: 20, Sampler: …": re.compile(
        r"^(?:Negative prompt: |Steps: [0-9]+, )", re.MULTILINE
    ),
    "embeddings, as in embedding:name or <name>": re.compile(r"\bembedding:\S|<[\w-]+>"),
    "networks, as in <hypernet:name:1>": re.compile(r"<(?:hypernet|lyco):", re.IGNORECASE),
    "escapes, as in \\(word\\)": re.compile(r"\\[()\[\]{}]"),
    "commands, as in /imagine": re.compile(r"^\s*/[a-z]+\s"),
    "comments, as in # word": re.compile(r"^\s*(?:#\s|//)"),
}


def kinds_in(prompt: str) -> list[str]:
    """Return the kinds of other tools' syntax that a prompt seems to contain."""
    return [kind for kind, pattern in KINDS.items() if pattern.search(prompt)]
