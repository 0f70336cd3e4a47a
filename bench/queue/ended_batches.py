"""The cost of a year's ended batches for picking a lane and for `nightmill status`."""

from collections.abc import Mapping
from contextlib import ExitStack

from sqlalchemy import Engine, text

from bench.backlog import open_backlog
from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.results import Figure, at_most
from bench.harness.services import Place, engine_on, vacuum
from jobs.batches import actions
from jobs.db.engine import run
from jobs.queue import fair_share
from jobs.queue.lane_counts_and_low_watermarks import end_lanes

LANES_EACH = 10

_BATCHES = text("""
    WITH made AS (
        INSERT INTO batches (name, digest, manifest, manifest_sha256, settings, output, max_attempts, priority)
        SELECT 'ended-' || n, 'ended-' || n, 'ended.jsonl', '', '{}', '/output', 3, 0
        FROM generate_series(1, CAST(:batches AS int)) AS n RETURNING id
    ), shaped AS (
        INSERT INTO lanes (batch_id, model, width, height, upscale, chosen_at)
        SELECT made.id, 'model-' || n, 512, 512, 0, now() FROM made, generate_series(1, CAST(:lanes AS int)) AS n
        RETURNING id, batch_id
    )
    INSERT INTO job_counts (batch_id, lane_id, state, delta) SELECT batch_id, id, 'done', 1000 FROM shaped RETURNING id
""")


def measure_a_year(place: Place, ended: int, rounds: int) -> Mapping[str, Figure]:
    """Measure both in a database with that many ended batches, against one with none."""
    with ExitStack() as stack:
        fresh, old = (_database(stack, place, name) for name in ("bench_fresh", "bench_year"))
        run(old, _BATCHES, {"batches": ended, "lanes": LANES_EACH})
        end_lanes(old)
        for table in ("lanes", "batches", "job_counts"):
            vacuum(old, table)
        samples = take_turns(
            rounds,
            {
                "fresh": lambda: 1000 * seconds(lambda: _time_slice(fresh)),
                "old": lambda: 1000 * seconds(lambda: _time_slice(old)),
            },
        )
        statuses = take_turns(
            max(3, rounds // 10), {"all": lambda: 1000 * seconds(lambda: actions.statuses(old))}
        )
    details = f"none: {samples.median('fresh'):.2f} ms; {ended * LANES_EACH:,} lanes of {ended:,} batches"
    return {
        "time_slice_after_a_year": Figure(samples.ratio("old", "fresh"), "ratio", details, at_most(1.3)),
        "status_of_all_ms": Figure(statuses.median("all"), "ms", f"{ended:,} ended batches", at_most(150)),
    }


def _database(stack: ExitStack, place: Place, name: str) -> Engine:
    """Create a database with ten lanes that have work."""
    settings = stack.enter_context(place.database(name))
    engine = stack.enter_context(engine_on(settings.database))
    for number in range(10):
        open_backlog(engine, f"open-{number}", settings.output).fill(100)
    return engine


def _time_slice(engine: Engine) -> None:
    picked = fair_share.pick_lane(engine, slice_s=60)
    assert picked is not None
    fair_share.end_time_slice(engine, picked, "bench", "cpu", fair_share.SliceUse(60, images=10, batch_s=1))
