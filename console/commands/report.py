"""`nightmill report`: what happened in a night, the worst first."""

from typing import Annotated, Any

import typer

from console.command_options import Json, one_of, since
from console.session import session
from console.terminal.note_unknown_tenant import note_unknown_tenant
from console.terminal.output import note, print_json, print_line, print_table
from console.terminal.report_sections import headline, sections
from jobs.db.engine import database_time
from jobs.errors import UsageError
from jobs.report.night_report import collect_report
from jobs.setting_values.device_hour_prices import DevicePrices

FORMATS = ("text", "md", "json")


def report(
    since_: Annotated[
        str, typer.Option("--since", metavar="TIME|AGE", help='"22:00", "2026-11-22 18:00", 12h')
    ] = "12h",
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="only of this tenant")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="text|md|json", help="default: text")
    ] = None,
    as_json: Json = False,
) -> None:
    """What ended, was late, failed or was stopped since a moment, the worst first; who used the workers."""
    if as_json and format_ not in (None, "json"):
        raise UsageError(f"--json and --format {format_}: say one of them")
    shown = "json" if as_json else one_of("--format", format_ or "text", FORMATS)
    with session() as open_session:
        began = since("--since", since_, database_time(open_session.engine))
        prices = DevicePrices.parse(open_session.settings.hour_price)
        note_unknown_tenant(open_session.engine, tenant)
        found = collect_report(open_session.engine, began, tenant, prices)
    {"text": _print_text, "md": _print_markdown, "json": print_json}[shown](found)


def _print_text(found: dict[str, Any]) -> None:
    print_line(headline(found))
    for section in sections(found):
        print_line("")
        print_table(section.columns, section.rows)
        if section.more:
            note(section.more)


def _print_markdown(found: dict[str, Any]) -> None:
    print_line(headline(found))
    for section in sections(found):
        print_line(f"\n## {section.title}\n")
        for row in (section.columns, ["---"] * len(section.columns), *section.rows):
            print_line("| " + " | ".join(_cell(cell) for cell in row) + " |")
        if section.more:
            print_line(f"\n{section.more}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
