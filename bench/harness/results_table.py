"""Prints a benchmark's figures as a table, in plain text where rich isn't installed."""

from bench.harness.results import Figure, Result, shown

HEADER = ("figure", "value", "unit", "goal", "", "against")
_WIDTH = 200


def print_result(result: Result) -> None:
    """Print the benchmark's name, its machine and a table of its figures to stdout."""
    rows = [_cells(key, figure) for key, figure in result.figures.items()]
    try:
        _print_rich(result, rows)
    except ImportError:
        _print_plain(result, rows)


def _cells(key: str, figure: Figure) -> tuple[str, ...]:
    verdict = {True: "holds", False: "missed", None: ""}[figure.holds]
    return key, shown(figure.value), figure.unit, str(figure.goal or ""), verdict, figure.against or ""


def _print_rich(result: Result, rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - `gpu` doesn't need it
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console(highlight=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(f"[bold]{result.name}[/]  {escape(str(result.machine))}")
    table = Table(*HEADER, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        colour = {"holds": "green", "missed": "red"}.get(row[4])
        verdict = f"[{colour}]{row[4]}[/]" if colour else ""
        table.add_row(*map(escape, row[:4]), verdict, escape(row[5]))
    console.print(table)
    console.print()


def _print_plain(result: Result, rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (HEADER, *rows)
    ]
    print(f"{result.name}  {result.machine}", *(line.rstrip() for line in lines), "", sep="\n")
