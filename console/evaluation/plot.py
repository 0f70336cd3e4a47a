"""Plot an evaluation: CLIP score and prompt match against the swept column."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

INK, PALE, PAPER, LINE = "#18181b", "#71717a", "#fafaf9", "#2563eb"
_LABEL = 24
_SERIES = (("clip_score", "CLIP score", 1), ("prompt_match", "match their prompt, %", 100))


def draw(points: Sequence[dict[str, Any]], by: str, title: str) -> bytes:
    """Return a PNG of the points as `Point.report` returns them, with 95 % intervals, one panel per measure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes half a second to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    measures = [series for series in _SERIES if any(point[series[0]] is not None for point in points)]
    figure = Figure(
        figsize=(7.2, 0.9 + 2.9 * max(1, len(measures))), dpi=130, facecolor=PAPER, layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontsize=11, parse_math=False)
    panels = figure.subplots(max(1, len(measures)), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, label, scale) in zip(panels, measures, strict=False):
        _plot(panel, points, name, scale)
        panel.set_ylabel(label, color=INK)
        if name == "prompt_match":
            panel.set_ylim(-3, 103)
    _name_values(panels[-1], points)
    panels[-1].set_xlabel(by.replace("_", " "), color=INK, parse_math=False)
    return _png(figure)


def _plot(panel: Any, points: Sequence[dict[str, Any]], name: str, scale: float) -> None:
    places = _places(points)
    known = [(place, point) for place, point in zip(places, points, strict=True) if point[name] is not None]
    x = [place for place, _ in known]
    y = [point[name] * scale for _, point in known]
    intervals = [point[f"{name}_ci"] or [point[name]] * 2 for _, point in known]
    below = [max(0.0, value - low * scale) for value, (low, _) in zip(y, intervals, strict=True)]
    above = [max(0.0, high * scale - value) for value, (_, high) in zip(y, intervals, strict=True)]
    is_line = all(_is_number(point["value"]) for point in points)
    panel.errorbar(
        x, y, yerr=[below, above], fmt="o-" if is_line else "o", color=LINE, ecolor=PALE, capsize=3
    )
    panel.set_facecolor(PAPER)
    panel.grid(visible=True, color=PALE, alpha=0.25)
    panel.tick_params(colors=INK)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _name_values(panel: Any, points: Sequence[dict[str, Any]]) -> None:
    names = [_short(point["value"]) for point in points]
    is_long = sum(map(len, names)) > 70
    panel.set_xticks(
        _places(points),
        names,
        parse_math=False,
        rotation=35 if is_long else 0,
        horizontalalignment="right" if is_long else "center",
    )


def _places(points: Sequence[dict[str, Any]]) -> list[float]:
    if all(_is_number(point["value"]) for point in points):
        return [float(point["value"]) for point in points]
    return [float(place) for place in range(len(points))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: object) -> str:
    if value in (None, ""):
        return "none"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"


def _png(figure: Any) -> bytes:
    body = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(body, format="png", metadata={"Software": None})
    return body.getvalue()
