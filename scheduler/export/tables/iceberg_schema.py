"""The columns of an Iceberg table: those of exports in Parquet, with types that Iceberg has."""

from collections.abc import Collection
from itertools import chain, count

import pyarrow as pa

SEED = pa.decimal128(20, 0)
"""Iceberg has no unsigned integers, and seeds go up to 2**64 - 1."""


def storable(schema: pa.Schema) -> pa.Schema:
    """Return the schema with each type and name replaced that Iceberg lacks, or takes for something else.

    A dot would lead into a struct: `meta.label` is `meta_label`.
    """
    fields: dict[str, pa.Field] = {}
    for field in schema:
        type_ = SEED if field.type == pa.uint64() else field.type
        name = _free_name(field.name.replace(".", "_"), fields)
        fields[name] = pa.field(name, type_)
    return pa.schema(list(fields.values()))


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number behind it if another column has it; case isn't told apart everywhere."""
    lower = {other.lower() for other in taken}
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(found for found in names if found.lower() not in lower)


def stored(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows in a schema of `storable`."""
    columns = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
