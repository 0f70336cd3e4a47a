"""`nightmill tenants`: who gets which share of the workers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from console.command_options import NONE, Json, limit
from console.session import session
from console.terminal.output import print_json, print_table
from jobs.errors import UsageError
from jobs.queue.tenants import forget_tenant, prompt_terms_of, set_tenant
from jobs.queue.tenants import tenants as all_tenants
from models.assess.prompt_filter import PromptTerms, read_terms
from models.errors import ModelError

MOST_BYTES = 100_000

tenants = typer.Typer(
    help="Whose jobs share the workers, and how.", invoke_without_command=True, add_completion=False
)

Tenant = Annotated[str, typer.Argument(help='as in the column `tenant`; "*": all together')]


@tenants.callback()
def list_tenants(context: typer.Context, as_json: Json = False) -> None:
    """Tenants with their weights, limits and jobs; `set TENANT` changes one."""
    if context.invoked_subcommand:
        return
    with session() as open_session:
        _show(open_session.engine, as_json)


@tenants.command("set")
def set_(
    tenant: Tenant,
    weight: Annotated[
        int | None, typer.Option(help="share of the workers, 1 to 1000; 1 if never set")
    ] = None,
    max_running: Annotated[
        str | None, typer.Option(metavar="N|none", help="jobs that may run at once")
    ] = None,
    max_queued: Annotated[
        str | None,
        typer.Option(
            metavar="N|none", help="open jobs beyond which a submit with more of its jobs is refused"
        ),
    ] = None,
    prompt_terms: Annotated[
        str | None,
        typer.Option(metavar="FILE|none", help="terms that its prompts must not hold, besides everybody's"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a tenant a weight, limits of jobs or prompt terms; workers heed them from their next claim on."""
    if weight is None and max_running is None and max_queued is None and prompt_terms is None:
        raise UsageError(
            "say what to set: --weight, --max-running, --max-queued, --prompt-terms or several of them"
        )
    terms = None if prompt_terms is None else _terms_of(prompt_terms)
    with session() as open_session:
        set_tenant(
            open_session.engine,
            tenant,
            weight=weight,
            max_running=limit("--max-running", max_running, "jobs"),
            max_queued=limit("--max-queued", max_queued, "jobs"),
            prompt_terms=terms,
        )
        _show(open_session.engine, as_json)


@tenants.command()
def forget(tenant: Tenant, as_json: Json = False) -> None:
    """Back to a weight of 1, without limits and prompt terms of its own."""
    with session() as open_session:
        forget_tenant(open_session.engine, tenant)
        _show(open_session.engine, as_json)


@tenants.command("prompt-terms")
def prompt_terms_(tenant: Tenant, as_json: Json = False) -> None:
    """Print the prompt terms that a tenant has besides everybody's, as they were set: nothing if it has none."""
    with session() as open_session:
        text = prompt_terms_of(open_session.engine, tenant)
    if as_json:
        print_json({"tenant": tenant, "prompt_terms": _listed(text)})
    else:
        typer.echo(text or "", nl=False)


def _terms_of(given: str) -> str:
    """Return the text of a file of terms, "" for "none"; UsageError if it can't be used."""
    if given == NONE:
        return ""
    try:
        text = read_terms(Path(given), MOST_BYTES)
        listed = PromptTerms.parse(text, given).listed
    except ModelError as error:
        raise UsageError(f"--prompt-terms: {error}") from error
    if not listed:
        raise UsageError(
            f"--prompt-terms: {given} has no terms; `--prompt-terms none` removes those there are"
        )
    if "\0" in text:
        raise UsageError(f"--prompt-terms: {given} holds NUL characters, which no text file has")
    return text


def _listed(text: str | None) -> list[str]:
    return PromptTerms.parse(text, "").listed if text else []


def _show(engine: Any, as_json: bool) -> None:
    found = [each | {"prompt_terms": _listed(each["prompt_terms"])} for each in all_tenants(engine)]
    if as_json:
        print_json(found)
        return
    columns = ("tenant", "weight", "max running", "max queued", "terms", "queued", "running", "done")
    print_table(columns, [_row(tenant) for tenant in found])


def _row(tenant: dict[str, Any]) -> tuple[object, ...]:
    jobs = (f"{tenant[state]:,}" for state in ("queued", "running", "done"))
    set_for = (
        tenant["weight"],
        tenant["max_running"],
        tenant["max_queued"],
        len(tenant["prompt_terms"]) or None,
    )
    return tenant["name"] or "(none)", *set_for, *jobs
