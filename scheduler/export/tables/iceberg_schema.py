"""The columns of an Iceberg table: those of exports in Parquet, with types that Iceberg has."""

import pyarrow as pa

from scheduler.export.tables.column_names_without_dots import without_dots

SEED = pa.decimal128(20, 0)
"""Iceberg has no unsigned integers, and seeds go up to 2**64 - 1."""


def storable(schema: pa.Schema) -> pa.Schema:
    """Return the schema with each type and name replaced that Iceberg lacks, or takes for something else."""
    return pa.schema(
        [field.with_type(SEED) if field.type == pa.uint64() else field for field in without_dots(schema)]
    )


def stored(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows in a schema of `storable`."""
    columns = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
