"""Estimate the memory of each cell of an Arrow column as a Python object, before it is converted."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_EACH = 8
Weights = NDArray[np.int64]


def weights(array: Any) -> Weights:
    """Estimate the bytes of every value of an Arrow array: the length of its text, and eight bytes per part."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return weights(array.storage)
    if pa.types.is_dictionary(kind):
        own: Weights = weights(array.dictionary)
        places = np.asarray(pc.fill_null(array.indices, 0), dtype=np.int64)
        return own[places] if len(own) else np.zeros(len(array), np.int64)
    if pa.types.is_fixed_size_list(kind):
        inner = weights(array.flatten()) if array.null_count == 0 else weights(array.values)
        each: Weights = inner[: len(array) * kind.list_size].reshape(len(array), -1).sum(axis=1)
        return each + _EACH
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return _lists(array)
    if pa.types.is_struct(kind):
        parts = [weights(array.field(number)) for number in range(kind.num_fields)]
        total: Weights = np.sum([np.full(len(array), _EACH, np.int64), *parts], axis=0)
        return total
    return _scalars(array)


def _lists(array: Any) -> Weights:
    offsets = np.asarray(array.offsets, dtype=np.int64)
    first, last = offsets[0], offsets[-1]
    if pa.types.is_map(array.type):
        inner = weights(array.keys.slice(first, last - first)) + weights(
            array.items.slice(first, last - first)
        )
    else:
        inner = weights(array.values.slice(first, last - first))
    sums = np.concatenate([[0], np.cumsum(inner)])
    each: Weights = np.diff(sums[offsets - first])
    return each + _EACH


def _scalars(array: Any) -> Weights:
    kind = array.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        array = array.cast(pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary())
        kind = array.type
    if pa.types.is_fixed_size_binary(kind):
        return np.full(len(array), kind.byte_width, np.int64)
    if any(
        is_text(kind)
        for is_text in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    ):
        lengths = pc.fill_null(pc.binary_length(array), 0)
        return _EACH + np.asarray(lengths, dtype=np.int64)
    return np.full(len(array), 2 * _EACH, np.int64)
