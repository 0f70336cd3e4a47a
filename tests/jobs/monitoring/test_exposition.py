"""What is counted comes out in the form that Prometheus reads."""

import subprocess

from jobs.monitoring import metrics
from jobs.monitoring.exposition import Totals, exposition
from jobs.monitoring.metric_types import METRICS, Histogram, Kind, Sample, collect, put_back
from tests.infra.programs import program
from tests.scraping import parsed


def test_counts_are_taken_once_and_summed() -> None:
    collect()
    totals = Totals(metrics.SCHEDULER)
    metrics.RESCUED_JOBS.add(2)
    metrics.ATTEMPTS.add(1, "failed")
    counts = collect().counts
    assert collect().counts == []
    totals.add(counts)
    put_back(counts)
    metrics.RESCUED_JOBS.add(3)
    totals.add(collect().counts)
    found = parsed(exposition(totals.samples()).decode())
    assert found["nightmill_rescued_jobs_total"] == 7
    assert found["nightmill_attempts_total failed"] == 2
    assert found["nightmill_wakeups_sent_total"] == 0


def test_a_histogram_counts_each_observation_in_all_buckets_above() -> None:
    histogram = Histogram(
        "nightmill_test_seconds", "For this test.", ("stage",), role="none", buckets=(0.5, 2.0)
    )
    try:
        for value in (0.1, 0.5, 1.0, 7.0):
            histogram.observe(value, "encode")
        found = parsed(exposition(collect().counts).decode())
    finally:
        del METRICS[histogram.name]
    assert {name: value for name, value in found.items() if name.startswith("nightmill_test")} == {
        "nightmill_test_seconds_bucket 0.5 encode": 2,
        "nightmill_test_seconds_bucket 2 encode": 3,
        "nightmill_test_seconds_bucket +Inf encode": 4,
        "nightmill_test_seconds_count encode": 4,
        "nightmill_test_seconds_sum encode": 8.6,
    }


def test_promtool_finds_nothing_amiss_with_any_metric() -> None:
    samples = [
        Sample(name, tuple('odd "\\\n' for _ in metric.labels), (1.0,) * metric.size)
        for name, metric in METRICS.items()
        if name != metrics.BUILD_INFO.name
    ]
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=exposition(samples),
        capture_output=True,
        check=False,
        timeout=150,
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_names_say_what_they_are() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("nightmill_")
        assert name.endswith("_total") == (metric.kind == Kind.COUNTER)
        assert metric.help.endswith(".")
