"""The Arrow schema of image rows, as every export reads them from the database."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from sqlalchemy import BigInteger, Boolean, DateTime, Float, Integer, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSON, JSONB

from jobs.images.insert_and_public_columns import public_columns

_ARROW_TYPES: Mapping[type[Any], pa.DataType] = {
    BigInteger: pa.int64(),
    Boolean: pa.bool_(),
    DateTime: pa.timestamp("us", tz="UTC"),
    Float: pa.float64(),
    Integer: pa.int32(),
    JSON: pa.string(),
    JSONB: pa.string(),
    Numeric: pa.uint64(),  # of 20 digits: seeds
    SmallInteger: pa.int16(),
    Text: pa.string(),
}

SCHEMA = pa.schema([(column.name, _ARROW_TYPES[type(column.type)]) for column in public_columns()])

JSON_COLUMNS = frozenset(column.name for column in public_columns() if isinstance(column.type, JSON))
