import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.harness.results import Figure, at_least, at_most

MACHINE = {"cpu", "cores", "memory_gb", "python", "postgresql"}
MAY_BE_ZERO = {
    "postgres_ms",
    "false_alarms",
    "survivor_called_weak",
    "forbidden_caught",
    "match_at_guidance_1",
    "match_at_guidance_4",
    "other_seeds_taken_for_copies",
    "other_prompts_taken_for_copies",
}
LOST = ("at_", "drawn_", "dwtdct_", "dwtdctsvd_", "traced_", "wrong_", "strangers_")
"""What figures begin with of marks that some changes take away, and of pictures that are taken for others."""
FIGURE = {"value", "unit", "against", "goal", "holds"}


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def check(result: dict[str, Any]) -> None:
    assert result.keys() == {"name", "machine", "figures"}
    assert result["machine"].keys() == MACHINE
    assert result["machine"]["cores"] >= 1
    for key, figure in result["figures"].items():
        assert figure.keys() == FIGURE, key
        assert math.isfinite(figure["value"]), key
        # The processor time of other processes is told in ticks of 10 ms, which a small run may not fill.
        may_be_zero = key in MAY_BE_ZERO or key.startswith(LOST)
        assert figure["value"] > 0 or (may_be_zero and figure["value"] == 0), key
        assert (figure["goal"] is None) == (figure["holds"] is None), key


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_all_benchmarks_give_figures_and_leave_nothing_behind(tmp_path: Path) -> None:
    ended = bench(tmp_path, "--quick", "--json")
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout)
    assert [result["name"] for result in results] == [
        "ingest",
        "queue",
        "cpu",
        "memory",
        "shapes",
        "export",
        "report",
        "marks",
        "provenance",
    ]
    for result in results:
        check(result)
    assert "ingest_per_copy" in results[0]["figures"]
    assert "claim_64_long_per_short" in results[1]["figures"]
    assert {"orchestration_ms", "dwt_dct_512_per_package", "dwt_dct_svd_512_per_package"} <= set(
        results[2]["figures"]
    )
    assert results[3]["figures"]["int8_bytes"]["holds"]
    assert results[3]["figures"]["int4_bytes"]["holds"]
    assert {"upscaler_gain", "captions_told_apart"} <= results[4]["figures"].keys()
    assert {"parquet_rows_per_s", "webdataset_per_tar"} <= results[5]["figures"].keys()
    assert {"feed_json_rows_per_s", "feed_arrow_rows_per_s"} <= results[5]["figures"].keys()
    assert not list(tmp_path.glob("nightmill-bench-*"))


def test_one_benchmark_prints_a_table(tmp_path: Path) -> None:
    ended = bench(tmp_path, "ingest", "--quick")
    assert ended.returncode == 0, ended.stderr
    assert "ingest_per_copy" in ended.stdout
    assert ">= 0.5" in ended.stdout


def test_an_unknown_name_is_wrong_use(tmp_path: Path) -> None:
    ended = bench(tmp_path, "speed")
    assert ended.returncode == 2
    assert "there is no benchmark 'speed'" in ended.stderr


@pytest.mark.parametrize(
    ("value", "goal", "holds"),
    [
        (0.5, at_least(0.5), True),
        (0.49, at_least(0.5), False),
        (5, at_most(5), True),
        (5.1, at_most(5), False),
    ],
)
def test_a_goal_holds_up_to_its_bound(value: float, goal: Any, holds: bool) -> None:
    assert Figure(value, "ratio", goal=goal).holds is holds


def test_a_figure_without_a_goal_neither_holds_nor_misses() -> None:
    report = Figure(1234.567, "rows/s", "the same").report()
    assert report == {"value": 1235.0, "unit": "rows/s", "against": "the same", "goal": None, "holds": None}
