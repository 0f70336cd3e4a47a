"""The metadata of a dataset card, as the Hugging Face hub and `datasets` read it."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from scheduler.export.dataset_metadata.dataset import Dataset
from scheduler.export.dataset_metadata.huggingface_licence_ids import hub_licence, licence_url
from scheduler.export.dataset_metadata.query_dataset_facts import Facts
from scheduler.export.rows.hugging_face import IMAGE, features

_SIZES: Sequence[tuple[int, str]] = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)


def card_metadata(dataset: Dataset, facts: Facts) -> dict[str, Any]:
    """Return licence, size, task and which files `load_dataset` reads as which split."""
    makers = [card for card in facts.cards.values() if card.family in ("text2image", "upscaler", "lora")]
    licence = hub_licence(makers)
    found: dict[str, Any] = {"pretty_name": dataset.name, "license": licence}
    if licence == "other":
        found |= {"license_name": "of-the-models", "license_link": licence_url(makers)}
    found |= {
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(facts.images)],
        "tags": ["synthetic", "nightmill"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": files} for name, files in dataset.splits.items()],
            }
        ],
    }
    schema = dataset.exporter.features(facts.formats, has_sidecars=facts.total("beside") > 0)
    if schema is not None and facts.images:
        found["dataset_info"] = {"features": _features(schema)}
    return found


def size_category(images: int) -> str:
    """Return the hub's name for so many rows."""
    return next((name for most, name in _SIZES if images < most), "n>1B")


def _features(schema: pa.Schema) -> list[dict[str, str]]:
    described = features(pa.schema([field for field in schema if field.type != pa.json_()]))
    return [{"name": field.name, "dtype": _dtype(field, described)} for field in schema]


def _dtype(field: pa.Field, described: dict[str, dict[str, str]]) -> str:
    if field.type == IMAGE:
        return "image"
    return "json" if field.type == pa.json_() else described[field.name]["dtype"]
