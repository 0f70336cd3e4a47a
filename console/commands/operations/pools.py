"""`nightmill pools`: which workers process which models, and how many workers each pool needs."""

from typing import Annotated

import typer

from console.command_options import DontAsk, Json, limit, seconds
from console.session import Session, session
from console.terminal.confirm import ask
from console.terminal.output import duration, print_json, print_table
from jobs.errors import UsageError
from jobs.queue.worker_pools import Pool, models_of, remove_pool, set_pool
from jobs.queue.worker_pools import pools as all_pools
from jobs.settings import POOL_FORM, POOL_NAME, load_settings
from models.catalogue.catalogue import Catalogue

ALL = "all"

pools = typer.Typer(
    help="Which workers process which models, and how many are needed.",
    invoke_without_command=True,
    add_completion=False,
)

Name = Annotated[str, typer.Argument(metavar="POOL", help="as in `nightmill worker --pool`")]


@pools.callback()
def list_pools(context: typer.Context, as_json: Json = False) -> None:
    """Pools with their models, and how many workers each has and needs; `set POOL` changes one."""
    if context.invoked_subcommand:
        return
    with session() as open_session:
        _show(open_session, as_json)


@pools.command("set")
def set_(
    pool: Name,
    models: Annotated[
        str | None, typer.Option(metavar="MODEL,…|all", help="models that the pool's workers process")
    ] = None,
    max_workers: Annotated[str | None, typer.Option(metavar="N|none", help="never need more")] = None,
    idle: Annotated[
        str | None, typer.Option(metavar="TIME", help="how long a worker may idle; 5m if never set")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="in what time work without a deadline should be done; 30m"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="what a new worker takes until it renders at full speed; 10m"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a pool or change it; running workers heed it from their next time slice on."""
    if (models, max_workers, idle, target, start) == (None,) * 5:
        raise UsageError("say what to set: --models, --max-workers, --idle, --target or --start")
    if not POOL_NAME.fullmatch(pool):
        raise UsageError(f"pool {pool!r}: {POOL_FORM}")
    given = load_settings(pool=pool, pool_models=None if models == ALL else models)
    if models not in (None, ALL) and not given.pool_models:
        raise UsageError(f"--models {models}: names no model; `all` stands for all")
    catalogue = Catalogue.load(given.models_path)
    for model in given.pool_models:
        catalogue.get(model)
    with session() as open_session:
        set_pool(
            open_session.engine,
            given.pool,
            models=() if models == ALL else given.pool_models if models else None,
            max_workers=limit("--max-workers", max_workers, "workers"),
            idle_s=seconds("--idle", idle),
            target_s=_positive("--target", target),
            start_s=seconds("--start", start),
        )
        _show(open_session, as_json)


@pools.command()
def remove(pool: Name, yes: DontAsk = False, as_json: Json = False) -> None:
    """Remove a pool that has no workers; its models' lanes wait for workers of other pools."""
    with session() as open_session:
        models_of(open_session.engine, pool)  # there must be one
        if not yes:
            ask(f"removes the pool {pool}")
        remove_pool(open_session.engine, pool)
        _show(open_session, as_json)


def _show(open_session: Session, as_json: bool) -> None:
    found = all_pools(open_session.engine)
    if as_json:
        print_json([pool.report() for pool in found])
        return
    columns = ("pool", "models", "workers", "needed", "at most", "may idle", "target", "start")
    print_table(columns, [_row(pool) for pool in found])


def _row(pool: Pool) -> tuple[object, ...]:
    models = ALL if pool.models is None else ", ".join(pool.models)
    times = (duration(pool.idle_s), duration(pool.target_s), duration(pool.start_s))
    workers = f"{pool.workers} ({pool.drained} drained)" if pool.drained else pool.workers
    return pool.name, models, workers, pool.wanted, pool.max_workers, *times


def _positive(option: str, given: str | None) -> float | None:
    found = seconds(option, given)
    if found == 0:
        raise UsageError(f"{option} {given}: must be more than 0")
    return found
