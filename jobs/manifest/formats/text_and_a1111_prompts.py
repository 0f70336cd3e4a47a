"""Read text files: one prompt per line, or a line of options as in prompt files of the AUTOMATIC1111 web UI."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

from jobs.errors import ManifestError
from jobs.manifest.raw_record import Broken, Record, Records
from jobs.manifest.read_statistics import LineCounts
from jobs.manifest.reading.decompressed_lines import Lines
from jobs.manifest.reading.line_ends import other_line_end
from jobs.manifest.reading.utf8 import decoded
from jobs.manifest.values import ProblemError, is_visible, shown, whole_number

_OPTIONS_START = re.compile(r"\s*--[a-z][a-z_]+(?:[\s=]|$)")
_INFOTEXT = re.compile(r"(?:Negative prompt: |Steps: [0-9]+, (?:Sampler|CFG scale|Seed|Size): )")
_BOM = "\ufeff"

# Options of the web UI's prompt files (scripts/prompts_from_file.py) with a corresponding column.
_OPTIONS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "sampler_name": "sampler",
    "sampler_index": "sampler",
    "sd_model": "model",
    "steps": "steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
}
_COUNTS = ("n_iter", "batch_size")
_MAX_OPTIONS = 40_000


def read_text(lines: Lines, column: str, label: str, counts: LineCounts) -> Records:
    """Read one prompt per line; lines without a visible character are skipped.

    A line that starts with `--prompt` or another option is parsed as by the web UI. Raises ManifestError for files of
    the web UI's generation parameters, whose lines aren't prompts.
    """
    for raw in lines:
        counts.lines = lines.number
        if not raw:
            counts.blank += 1
            continue
        text = decoded(raw, lines.number)
        if isinstance(text, Broken):
            yield text
            continue
        text = text.lstrip(_BOM).rstrip("\x1a").strip("\f")  # end-of-file mark of DOS (Ctrl-Z), form feeds
        if not is_visible(text):
            counts.blank += 1
        elif not text.isascii() and _BOM in text:
            yield Broken(
                lines.number, "has a byte order mark inside, as files joined without an end of line", text
            )
        elif reason := other_line_end(text):
            yield Broken(lines.number, reason, text)
        elif text[0] in "NS" and _INFOTEXT.match(text):
            raise ManifestError(
                f"{label}: line {lines.number} is of a web UI's generation parameters ({shown(text)}), not a prompt; "
                "write prompts and settings as columns (.csv, .jsonl)."
            )
        elif "--" in text and _OPTIONS_START.match(text):
            yield _from_options(lines.number, text, column)
        else:
            yield Record(lines.number, {column: text}, text, "\0" in text)


def _from_options(line: int, text: str, column: str) -> Record | Broken:
    try:
        values = dict(_options(text, column))
        if column not in values:
            raise ProblemError("prompt", "its options name no --prompt")
        return Record(line, values, text, True)
    except ProblemError as problem:
        return Broken(line, problem.reason, text, problem.column)


def _options(text: str, column: str) -> Iterator[tuple[str, Any]]:
    images = 1
    for name, value in _pairs(text):
        if name in _COUNTS:
            images *= whole_number(name, value, 1, 100_000)
        elif name not in _OPTIONS:
            known = ", ".join(f"--{option}" for option in (*_OPTIONS, *_COUNTS))
            raise ProblemError(name, f"option --{name} is not read; there are {known}")
        elif name != "seed" or value.strip() != "-1":  # -1: any seed
            yield (column if name == "prompt" else _OPTIONS[name]), value
    if images > 1:
        yield "num_images", images


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split a line into option names and values; a value extends up to the next option, as in the web UI."""
    if len(text) > _MAX_OPTIONS:  # shlex takes quadratic time in a word's length
        raise ProblemError(
            None, f"its options have {len(text):,} characters; at most {_MAX_OPTIONS:,} are read"
        )
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ProblemError(None, f"its options can't be read: {str(error).lower()}") from None
    pairs: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            pairs.append((name.replace("-", "_"), [value] if equals else []))
        elif not pairs:
            raise ProblemError(None, f"{shown(word)} stands before the first option")
        else:
            pairs[-1][1].append(word)
    names = [name for name, _ in pairs]
    for name, words in pairs:
        if names.count(name) > 1:
            raise ProblemError(name, f"option --{name} is given twice")
        if not words:
            raise ProblemError(name, f"option --{name} has no value")
    return [(name, " ".join(words)) for name, words in pairs]
