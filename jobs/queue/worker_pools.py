"""Pools of workers: which models a pool's workers process, and how many workers it needs now."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.queue.sql_predicates import IS_DRAINED_WORKER
from jobs.queue.worker_health_reports import SEEN_S
from jobs.states import DEFAULT_POOL, NO_LIMIT
from jobs.suggest_names_and_shorten_lists import nearest

LONGEST_S = 1e7
"""The longest of a pool's times: 115 days."""
MOST_WORKERS = 100_000

# The lane's model is one that the pool serves. Needs `lanes`. Placeholder: the name of the pool.
SERVES = """EXISTS (
        SELECT FROM pools WHERE pools.name = {} AND (pools.models IS NULL OR lanes.model = ANY (pools.models)))"""

_LIST = text(f"""
    SELECT name, models, max_workers, idle_s, target_s, start_s, nightmill_wanted_workers(name) AS wanted,
        (SELECT count(*) FROM workers WHERE pool = pools.name AND seen_at > now() - make_interval(secs => :seen_s)
            AND activity IS DISTINCT FROM 'draining') AS workers,
        (SELECT count(*) FROM workers WHERE pool = pools.name AND seen_at > now() - make_interval(secs => :seen_s)
            AND activity IS DISTINCT FROM 'draining' AND {IS_DRAINED_WORKER}) AS drained
    FROM pools ORDER BY name
""")

_SET = text("""
    INSERT INTO pools AS old (name, models, max_workers, idle_s, target_s, start_s)
    VALUES (:name, CAST(:models AS text[]), CAST(:max_workers AS integer), coalesce(:idle_s, 300),
        coalesce(:target_s, 1800), coalesce(:start_s, 600))
    ON CONFLICT (name) DO UPDATE SET
        models = CASE WHEN :keeps_models THEN old.models ELSE excluded.models END,
        max_workers = CASE WHEN :keeps_limit THEN old.max_workers ELSE excluded.max_workers END,
        idle_s = coalesce(:idle_s, old.idle_s), target_s = coalesce(:target_s, old.target_s),
        start_s = coalesce(:start_s, old.start_s)
    RETURNING name
""")

_ADD = text("""
    INSERT INTO pools (name, models) VALUES (:name, CAST(:models AS text[]))
    ON CONFLICT (name) DO NOTHING RETURNING name
""")
_CLAIM_SIZE = text(
    "UPDATE pools SET claim_size = :claim_size WHERE name = :name AND claim_size <> :claim_size RETURNING name"
)

_MODELS = text("SELECT name, models FROM pools ORDER BY name")

_REMOVE = text("""
    DELETE FROM pools WHERE name = :name AND NOT EXISTS (
        SELECT FROM workers WHERE pool = :name AND seen_at > now() - make_interval(secs => :seen_s))
    RETURNING name
""")

_WANTED = text("SELECT nightmill_wanted_workers(name) AS wanted FROM pools WHERE name = :name")


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool's settings, how many workers it has, and how many it needs now.

    `models` None: all. `max_workers` None: any number. `idle_s`: how long a worker may idle before it isn't wanted any
    more. `target_s`: in what time work without a deadline should be done. `start_s`: what a new worker takes until it
    renders at full speed, which is left free before a deadline. `drained` of the workers are.
    """

    name: str
    models: tuple[str, ...] | None
    max_workers: int | None
    idle_s: float
    target_s: float
    start_s: float
    wanted: int
    workers: int
    drained: int

    def report(self) -> dict[str, Any]:
        """Return the values that `pools --json` prints."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "models": None if self.models is None else list(self.models)
        }


def pools(engine: Engine) -> list[Pool]:
    """Return all pools by name."""
    return [
        Pool(**dict(row._mapping) | {"models": None if row.models is None else tuple(row.models)})
        for row in run(engine, _LIST, {"seen_s": SEEN_S})
    ]


def set_pool(
    engine: Engine,
    name: str,
    *,
    models: Collection[str] | None = None,
    max_workers: int | None = None,
    idle_s: float | None = None,
    target_s: float | None = None,
    start_s: float | None = None,
) -> None:
    """Create a pool or change what is given; empty `models` means all, a `max_workers` of NO_LIMIT any number.

    Raises UsageError if a number is out of range.
    """
    for what, given in (("idle", idle_s), ("target", target_s), ("start", start_s)):
        if given is not None and not 0 <= given <= LONGEST_S:
            raise UsageError(f"a pool's {what} time is at most {LONGEST_S / 86_400:.0f} days")
    if max_workers is not None and not NO_LIMIT <= max_workers <= MOST_WORKERS:
        raise UsageError(f"a pool has at most {MOST_WORKERS:,} workers")
    values = {
        "name": name,
        "models": sorted(set(models)) if models else None,
        "keeps_models": models is None,
        "max_workers": None if max_workers == NO_LIMIT else max_workers,
        "keeps_limit": max_workers is None,
        "idle_s": idle_s,
        "target_s": target_s,
        "start_s": start_s,
    }
    run(engine, _SET, values)


def remove_pool(engine: Engine, name: str) -> None:
    """Remove a pool. Raises UsageError if there is none, if it has workers, or if it is the default one."""
    if name == DEFAULT_POOL:
        raise UsageError(f"the pool {DEFAULT_POOL!r} stays; `nightmill pools set {DEFAULT_POOL}` changes it")
    if run(engine, _REMOVE, {"name": name, "seen_s": SEEN_S}):
        return
    models_of(engine, name)
    raise UsageError(f"pool {name!r} has workers: stop them first; `nightmill workers` lists them")


def join_pool(engine: Engine, name: str, models: Sequence[str], claim_size: int) -> None:
    """Check that a worker may start in the pool; the pool is created if it doesn't exist and `models` are given.

    Raises UsageError if the pool doesn't exist and no models are given, and if it serves other models than these.
    """
    wanted = tuple(sorted(set(models)))
    if wanted:
        run(engine, _ADD, {"name": name, "models": list(wanted)})
    served = models_of(engine, name)
    if wanted and served != wanted:
        raise UsageError(
            f"pool {name!r} serves {', '.join(served) if served else 'all models'}, not {', '.join(wanted)}: "
            f"`nightmill pools set {name} --models {','.join(wanted)}` changes that for all its workers, "
            "--pool names another pool"
        )
    run(engine, _CLAIM_SIZE, {"name": name, "claim_size": claim_size})


def wanted_workers(engine: Engine, pool: str) -> int | None:
    """Return how many workers the pool needs now, by `nightmill_wanted_workers` in the database; None: no such pool."""
    found = run(engine, _WANTED, {"name": pool})
    return int(found[0].wanted) if found else None


def models_of(engine: Engine, name: str) -> tuple[str, ...] | None:
    """Return the models that a pool serves, None for all. Raises UsageError if there is no such pool."""
    found = {row.name: row.models for row in run(engine, _MODELS, {})}
    if name in found:
        return None if found[name] is None else tuple(found[name])
    near = nearest(name, list(found))
    hint = f"did you mean {near!r}? " if near else ""
    raise UsageError(
        f"no pool {name!r}: {hint}`nightmill pools set {name} --models …` creates it, and so does the first worker "
        "that names its models with --models"
    )
