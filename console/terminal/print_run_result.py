"""Print what `run` has done."""

from typing import Any

from console.terminal.output import duration, note, plural, print_facts, print_json, short_said, size
from jobs.batches.status import open_jobs
from jobs.states import BatchState


def tell(report: dict[str, Any], as_json: bool) -> None:
    """Print the report of a run, as JSON or as a table with what to do next."""
    if as_json:
        print_json(report)
        return
    counts = ", ".join(f"{count:,} {state}" for state, count in report["counts"].items() if count)
    facts = {"batch": report["name"], "jobs": counts or "none", "rejected rows": f"{report['rejected']:,}"}
    facts["reconciled"] = _reconciled(report["reconciliation"])
    if report["rendered"]:
        memory = report["peak_memory"]
        facts["rendered"] = (
            f"{plural(report['rendered'], 'image')} in {duration(report['rendering_s'])}, "
            f"{report['rendered_per_s']:.2f}/s, "
            f"{report['drawing_share']:.0%} of the time drawing"
        )
        if memory["parent"]:  # of a worker on this host that this command or `up` has started
            facts["peak memory"] = f"worker {size(memory['parent'])}, its child {size(memory['child'])}"
    if report["reused"]:
        facts["reused"] = f"{plural(report['reused'], 'image')} of the same inputs in other rows, copied"
    if report["truncated"]:
        facts["truncated"] = (
            f"{plural(report['truncated'], 'image')}, by prompts or negative prompts that are too long"
        )
    facts |= {"images": report["images"], "export": ", ".join(report["exports"].values())}
    if report["contact_sheet"]:
        facts["contact sheet"] = report["contact_sheet"]
    print_facts(facts)
    _tell_what_to_do(report)


def _reconciled(sums: dict[str, Any]) -> str:
    if sums["problems"]:
        return "; ".join(sums["problems"])
    return f"all {plural(sums['rows'], 'row')}: {plural(sums['jobs'], 'job')}, {sums['rejected']:,} rejected"


def _tell_what_to_do(report: dict[str, Any]) -> None:
    if left := open_jobs(report["counts"]):
        if report["waiting"]:
            note(f"{left:,} jobs wait, no worker could go on: {report['waiting']}")
            note("when that is mended, the same command goes on; `nightmill cancel` ends the batch")
        else:
            note(f"{left:,} jobs wait: `nightmill resume {report['name']}`, then the same command goes on")
    if report["state"] in (BatchState.PAUSED, BatchState.CANCELLED):
        note(report["stopped_because"] or f"the batch was {report['state']} meanwhile")
    if report["rejected"]:
        note(f"`nightmill rejects {report['name']}` tells why rows were rejected")
    if said := short_said(report["name"], report["short"]):
        note(said)
    if report["counts"]["failed"] or report["counts"]["blocked"]:
        note(f"`nightmill status {report['name']}` tells why jobs failed or were blocked")
