"""Generates a manifest of any size, the same every time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BAD_ROW_EVERY = 1_000

_THINGS = (
    "a heron",
    "an old lighthouse",
    "two wooden boats",
    "a market stall",
    "a red tram",
    "a snow leopard",
)
_PLACES = ("in morning fog", "under a stormy sky", "beside a quiet canal", "on a mountain pass", "at dusk")
_STYLES = ("35 mm photograph", "watercolour on rough paper", "oil painting", "pencil drawing, cross-hatched")
_DETAIL = "soft light from the left, shallow depth of field, muted colours, fine detail"


def write_manifest(path: Path, rows: int) -> Path:
    """Write JSONL rows with ids, prompts of about 130 characters, labels for `meta`; one in a thousand is invalid."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in _rows(rows))
    return path


def _rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        thing, place = _THINGS[number % len(_THINGS)], _PLACES[number % len(_PLACES)]
        yield {
            "id": f"row-{number:08d}",
            "prompt": f"{thing} {place}, {_STYLES[number % len(_STYLES)]}, {_DETAIL}, take {number}",
            "negative_prompt": "blurred, text",
            "width": 128 if number % 3 else 64,
            "steps": 0 if number % BAD_ROW_EVERY == BAD_ROW_EVERY - 1 else 10 + number % 4,
            "label": thing.split()[-1],
            "label_id": number % len(_THINGS),
        }
