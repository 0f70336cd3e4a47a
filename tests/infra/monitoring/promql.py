"""PromQL in alerts and dashboards: it parses, and asks for metrics, labels and label values that nightmill has."""

from collections.abc import Iterator
from typing import Any

import promql_parser

import jobs.monitoring.metrics  # noqa: F401 - defines them
from jobs.monitoring.metric_types import METRICS, Histogram

# Of the target that is scraped, not of nightmill.
TARGET_LABELS = {"namespace", "instance"}


def mistakes(expression: str) -> list[str]:
    """What is wrong with an expression; nothing where all is well."""
    try:
        tree = promql_parser.parse(expression)
    except ValueError as error:
        return [str(error)]
    found: list[str] = []
    for selector in _of_type(tree, promql_parser.VectorSelector):
        labels = _labels(selector.name)
        if labels is None:
            found.append(f"there is no metric {selector.name}")
            continue
        used = {matcher.name for matcher in selector.matchers.matchers}
        found += [f"{selector.name} has no label {name}" for name in sorted(used - labels - TARGET_LABELS)]
    for grouping in _of_type(tree, promql_parser.AggregateExpr):
        own = _selected_labels(grouping) | TARGET_LABELS
        named = set(grouping.modifier.labels) if grouping.modifier else set()
        found += [f"{grouping.prettify()} has no label {name}" for name in sorted(named - own)]
    return found


def grouped_by(expression: str) -> set[str]:
    """The labels that the results of an expression have, of all that its groupings name."""
    tree = promql_parser.parse(expression)
    groupings = [one.modifier for one in _of_type(tree, promql_parser.AggregateExpr) if one.modifier]
    return {label for modifier in groupings for label in modifier.labels}


def _labels(name: str | None) -> set[str] | None:
    """The labels of a time series; None if there is none of this name."""
    for metric in METRICS.values():
        if isinstance(metric, Histogram):
            if name in {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}:
                return {*metric.labels, *(("le",) if name == f"{metric.name}_bucket" else ())}
        elif name == metric.name:
            return set(metric.labels)
    return None


def _selected_labels(tree: Any) -> set[str]:
    names = [selector.name for selector in _of_type(tree, promql_parser.VectorSelector)]
    return {label for name in names for label in _labels(name) or ()}


def _of_type(tree: Any, kind: type) -> Iterator[Any]:
    if isinstance(tree, kind):
        yield tree
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (inner := getattr(tree, name, None)) is not None:
            yield from _of_type(inner, kind)
    for inner in getattr(tree, "args", ()):
        yield from _of_type(inner, kind)
