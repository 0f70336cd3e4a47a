"""Column names without dots, for tables whose filters read a dot as access to a nested field."""

from collections.abc import Collection
from itertools import chain, count

import pyarrow as pa


def without_dots(schema: pa.Schema) -> pa.Schema:
    """Return the schema with `_` in place of dots in names: `meta.label` is `meta_label`."""
    fields: dict[str, pa.Field] = {}
    for field in schema:
        name = _free_name(field.name.replace(".", "_"), fields)
        fields[name] = field.with_name(name)
    return pa.schema(list(fields.values()))


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number behind it if another column has it; case isn't told apart everywhere."""
    lower = {other.lower() for other in taken}
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(found for found in names if found.lower() not in lower)
