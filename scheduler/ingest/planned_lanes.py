"""The lanes of a planned batch as a forecast takes them."""

from jobs.forecast.queued_lanes import QueuedLane
from jobs.forecast.work_kinds_and_ranges import WorkKind, speed_options
from scheduler.ingest.dry_run_plan import Plan
from scheduler.ingest.submit_request import SubmitRequest


def planned_lanes(plan: Plan, request: SubmitRequest) -> dict[QueuedLane, float]:
    """Return the lanes with their jobs, expected replacements included, and the GFLOP of an image of each."""
    seen = sum(sums.jobs for sums in plan.sums.values())
    share = (plan.jobs + plan.expected_replacements) / seen if seen else 0.0
    policy, options = request.policy, speed_options(request.policy)
    return {
        QueuedLane(
            None,
            request.wanted_name,
            tenant,
            WorkKind(*shape, options),
            max(1, round(sums.jobs * share)),
            sums.evaluations / sums.jobs,
            policy.priority,
            policy.window,
            policy.not_before,
        ): sums.gflop / sums.jobs
        for (tenant, shape), sums in sorted(plan.sums.items())
        if sums.jobs
    }
