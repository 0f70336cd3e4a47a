"""The index of an export: the files that describe it as a whole, written when all shards are, or some anew."""

import json
from pathlib import Path

import yaml
from sqlalchemy import Engine

from models.catalogue.catalogue import Catalogue
from scheduler.export.dataset_metadata import checksums, croissant, data_contract, dataset_card
from scheduler.export.dataset_metadata.dataset import Dataset
from scheduler.export.dataset_metadata.query_dataset_facts import gather_facts
from scheduler.export.dataset_metadata.sample_images import write_pictures
from scheduler.export.exporters import WrittenFile


def write_index(engine: Engine, catalogue: Catalogue, dataset: Dataset, folder: Path) -> list[WrittenFile]:
    """Write the index files to an empty local folder; they follow from the tables and the dataset's files alone."""
    facts = gather_facts(engine, catalogue, [batch.id for batch in dataset.batches], dataset.condition)
    pictures = write_pictures(engine, dataset, facts.class_key, folder)
    written = [*dataset.exporter.write_index(folder, dataset.names, dataset.read), *pictures]
    prefix = dataset.exporter.index_prefix
    texts = {
        dataset_card.NAME: ("text/markdown", dataset_card.card(dataset, facts, pictures)),
        croissant.NAME: (
            "application/ld+json",
            json.dumps(croissant.croissant(dataset, facts), indent=2, ensure_ascii=False),
        ),
        data_contract.NAME: (
            "application/yaml",
            yaml.safe_dump(data_contract.contract(dataset), sort_keys=False, allow_unicode=True, width=120),
        ),
    }
    for name, (content_type, text) in texts.items():
        (folder / (prefix + name)).write_text(text, encoding="utf-8")
        written.append(WrittenFile(prefix + name, content_type))
    (folder / (prefix + checksums.NAME)).write_text(
        checksums.checksums(folder, dataset.files, written), encoding="ascii"
    )
    return [*written, WrittenFile(prefix + checksums.NAME, "text/plain")]
