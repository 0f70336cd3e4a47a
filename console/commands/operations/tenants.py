"""`nightmill tenants`: who gets which share of the workers."""

from typing import Annotated, Any

import typer

from console.command_options import Json, limit
from console.session import session
from console.terminal.output import print_json, print_table
from jobs.errors import UsageError
from jobs.queue.tenants import forget_tenant, set_tenant
from jobs.queue.tenants import tenants as all_tenants

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
    as_json: Json = False,
) -> None:
    """Give a tenant a weight or limits of jobs; workers heed it from their next claim on."""
    if weight is None and max_running is None and max_queued is None:
        raise UsageError("say what to set: --weight, --max-running, --max-queued or several of them")
    with session() as open_session:
        set_tenant(
            open_session.engine,
            tenant,
            weight=weight,
            max_running=limit("--max-running", max_running, "jobs"),
            max_queued=limit("--max-queued", max_queued, "jobs"),
        )
        _show(open_session.engine, as_json)


@tenants.command()
def forget(tenant: Tenant, as_json: Json = False) -> None:
    """Back to a weight of 1 and no limits."""
    with session() as open_session:
        forget_tenant(open_session.engine, tenant)
        _show(open_session.engine, as_json)


def _show(engine: Any, as_json: bool) -> None:
    found = all_tenants(engine)
    if as_json:
        print_json(found)
        return
    columns = ("tenant", "weight", "max running", "max queued", "queued", "running", "done")
    print_table(columns, [_row(tenant) for tenant in found])


def _row(tenant: dict[str, Any]) -> tuple[object, ...]:
    jobs = (f"{tenant[state]:,}" for state in ("queued", "running", "done"))
    return tenant["name"] or "(none)", tenant["weight"], tenant["max_running"], tenant["max_queued"], *jobs
