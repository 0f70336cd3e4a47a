"""`nightmill plan`: report what a submit would do, without changing anything."""

from collections.abc import Sequence
from typing import Any

import typer

from console.command_options import Json
from console.command_options_from_dataclass import takes
from console.manifests.forecast_of_plan import forecast_of, installation
from console.manifests.submit_request_from_options import submit_request
from console.manifests.tenant_limits_exceeded_by_plan import exceeded_limits, limit_note
from console.manifests.update_existing_batch import bring_onto, check_options, said
from console.session import session
from console.submit_options import SubmitOptions
from console.terminal.forecast_text import forecast_facts, pace_cells, schedule_of, verdict_note
from console.terminal.output import (
    lane_cells,
    line_sum,
    note,
    plural,
    print_facts,
    print_json,
    print_table,
    seeds_said,
    size,
)
from console.terminal.progress import counting
from jobs.forecast.forecast_result import Forecast
from jobs.policy.batch_policy import BatchPolicy
from jobs.queue.tenants import prompt_terms_by_tenant
from jobs.settings import Settings, load_settings
from jobs.states import SafetyAction
from jobs.suggest_names_and_shorten_lists import some_of
from models.assess.prompt_filter import PromptTerms
from models.assess.prompt_terms_by_tenant import PromptTermsByTenant
from models.catalogue.catalogue import Catalogue
from models.optional_packages import is_installed
from scheduler.ingest.dry_run import make_plan
from scheduler.ingest.dry_run_plan import report as plan_report
from scheduler.ingest.estimate_replacement_jobs import measured_losses

_FILTERED = {
    SafetyAction.BLOCK: "{} will be blocked",
    SafetyAction.QUARANTINE: "{} will be blocked",
    SafetyAction.FLAG: "{} will be flagged",
    SafetyAction.BLACKEN: "images of {} will be blackened",
    SafetyAction.BLUR: "images of {} will be blurred",
}


@takes(SubmitOptions)
def plan(options: SubmitOptions, as_json: Json = False) -> None:
    """What a submit would do: rows, rejects with reasons, jobs, lanes, truncated prompts, bytes, and when it ends."""
    settings = load_settings()
    check_options(options)
    if options.format:
        from console.export_with_progress import check_formats  # noqa: PLC0415 - imports pyarrow

        check_formats(options.format)
    if options.onto is not None:
        _plan_onto(settings, options, as_json)
        return
    with (
        submit_request(options, settings) as (request, rules),
        installation(settings) as engine,
        counting("reading", request.manifest.rows) as tell,
    ):
        losses = measured_losses(engine) if engine and request.policy.target is not None else {}
        terms = PromptTermsByTenant(
            PromptTerms.load(settings.prompt_terms), prompt_terms_by_tenant(engine) if engine else {}
        )
        made = make_plan(request, rules, Catalogue.load(settings.models_path), tell, losses, terms)
        found = forecast_of(made, request, settings, engine) if made.jobs else None
        exceeded = exceeded_limits(engine, request, found)
    report = plan_report(made, request, _middle_s(found)) | {"forecast": found and found.report()}
    report["exceeded_limits"] = exceeded
    if as_json:
        print_json(report)
    else:
        _show(report, request.policy)
    if report["forecast"] and (warning := verdict_note(report["forecast"])):
        note(warning)
    for each in exceeded:
        note(limit_note(each))
    if exceeded or not made.jobs or (options.strict and made.rejected):
        raise typer.Exit(1)


def _middle_s(found: Forecast | None) -> float | None:
    """Return the middle of the range of worker seconds, if there is one."""
    return (
        None if found is None or found.unmeasured else (found.earliest.worker_s + found.latest.worker_s) / 2
    )


def _plan_onto(settings: Settings, options: SubmitOptions, as_json: bool) -> None:
    """Show what the manifest would change of a batch that is there."""
    with session(settings) as open_session:
        base, applied = bring_onto(open_session, options, is_dry=True)
    if as_json:
        lines = applied.lines.report(applied.rows - applied.rejected, applied.rejected)
        print_json(
            {"batch": base.name, "rows": applied.rows, "rejected": applied.rejected, "lines": lines}
            | {"onto": applied.difference.report()}
        )
    else:
        print_facts({"batch": base.name, "onto": said(applied.difference)})
    if options.strict and applied.rejected:
        raise typer.Exit(1)


def _show(report: dict[str, Any], policy: BatchPolicy) -> None:
    found = report["forecast"]
    print_facts(
        {
            "manifest": f"{report['manifest']} ({report['format']})",
            "rows": f"{report['rows']:,}, {report['rejected']:,} rejected{_sampled(report)}",
            "lines": line_sum(report["lines"]),
            "jobs": f"{report['jobs']:,}{_replacements(report['expected_replacements'])}",
            "seeds": seeds_said(report["seed_from"], report["batch_seed"]),
            **_pictures(report),
            "truncated": _truncated(report),
            **_filtered(report, policy),
            **_remarks(report),
            "size": f"about {size(report['estimated_bytes'])}",
            **schedule_of(policy),
            **(forecast_facts(found) if found else {}),
        }
    )
    lanes = found["lanes"] if found else []
    print_table(
        ("model", "mode", "LoRA", "size", "upscale", "jobs", "s/image", "measured on"),
        [(*lane_cells(lane), f"{lane['jobs']:,}", *pace_cells(lane)) for lane in lanes],
    )
    if report["rejects"]:
        columns = ("line", "column", "reason", "row")
        print_table(columns, [(r["line"], r["column"], r["reason"], r["excerpt"]) for r in report["rejects"]])


def _replacements(number: int) -> str:
    return (
        f"; about {number:,} replacements for images that are lost, by what was lost so far" if number else ""
    )


def _sampled(report: dict[str, Any]) -> str:
    return f"; all but the rows is estimated from {report['sample']:,} of them" if report["sample"] else ""


def _pictures(report: dict[str, Any]) -> dict[str, str]:
    """Return the line about input pictures, if any row names one."""
    if not report["pictures"] and not report["missing_pictures"]:
        return {}
    missing = f"{report['missing_pictures']:,} rows name one that isn't there"
    return {"pictures": f"{report['pictures']:,} to start from; {missing}"}


def _remarks(report: dict[str, Any]) -> dict[str, str]:
    """Return remarks on possible mistakes, each only if it applies."""
    syntax = (
        f"{plural(count, 'prompt')} with {kind} (line {report['prompt_syntax_lines'][kind]})"
        for kind, count in report["prompt_syntax"].items()
    )
    remarks = {
        "ids": _lines("rows repeat the id of an earlier one", report, "repeated_id"),
        "same": _lines(
            "jobs draw what another one draws: same seed, prompt, settings", report, "same_picture"
        ),
        "syntax": "; ".join([*syntax, "drawn as it stands"]) if report["prompt_syntax"] else "",
        "meta": some_of(report["meta_columns"], 20),
        "left out": _left_out(report["left_out_columns"]),
        "--drop": f"no row has a column {', '.join(not_found)}"
        if (not_found := report["not_found_columns"])
        else "",
    }
    return {name: text for name, text in remarks.items() if text}


def _left_out(columns: Sequence[str]) -> str:
    return f"{', '.join(columns)} (of bytes, which JSON has no form for)" if columns else ""


def _lines(what: str, report: dict[str, Any], key: str) -> str:
    count, lines = report[f"{key}s"], report[f"{key}_lines"]
    return f"{count:,} {what}, lines {', '.join(map(str, lines))}" if count else ""


def _filtered(report: dict[str, Any], policy: BatchPolicy) -> dict[str, str]:
    """Return the line about prompts that hold a forbidden term, if any does."""
    count, lines = report["filtered_prompts"], report["filtered_prompt_lines"]
    if not count:
        return {}
    what = _FILTERED[policy.safety].format(plural(count, "row"))
    terms = ", ".join(f"{term!r} {number:,}" for term, number in report["filtered_prompt_terms"].items())
    return {"prompt filter": f"{what}, lines {', '.join(map(str, lines))}; terms: {terms}"}


def _truncated(report: dict[str, Any]) -> str:
    text = f"{report['truncated_prompts']:,} prompts are longer than their model reads"
    if report["truncated_lines"]:
        text += f", lines {', '.join(map(str, report['truncated_lines']))}"
    if report["truncated_negatives"]:
        negatives = _lines("negative prompts", report, "truncated_negative")
        text += f"; so are {negatives}"
    if report["tokens_unknown"]:
        what = "whose files are" if is_installed("worker") else "as the worker's packages are"
        text += f"; not counted for {', '.join(report['tokens_unknown'])}, {what} not here"
    return text
