import gzip
import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from jobs.errors import ManifestError
from jobs.manifest import ModelRules, RowRules, open_source
from jobs.policy.batch_policy import BatchPolicy
from scheduler.ingest.ingest import Ingested, ingest
from scheduler.ingest.rules_from_catalogue import Reading
from scheduler.ingest.submit_request import SubmitRequest

MODEL = ModelRules("painter", 64, 64, 4, 7.5, "ddim", frozenset({"ddim"}), upscales=frozenset({4}))
RULES = RowRules(models={"painter": MODEL}, default_model="painter", overrides={}, renames={})

TRICKY = [
    "tab\there",
    "back\\slash \\N \\t",
    "line\nfeed\rreturn",
    r"\.",
    r"\N",
    "ünï ☃ 𝄞",
    "\x01\x7f",
    " . ",
]


def take_in(engine: Engine, path: Path, *, strict: bool = False) -> Ingested:
    with open_source(str(path)) as manifest:
        policy = BatchPolicy.model_validate({})
        return ingest(
            engine, SubmitRequest(manifest, Reading(strict=strict), policy, "out", "painter"), RULES
        )


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def rows_of(engine: Engine, query: str) -> list[dict[str, object]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(query)).mappings()]


def test_every_text_is_stored_as_it_was(engine: Engine, tmp_path: Path) -> None:
    wanted: list[dict[str, object]] = [
        {
            "id": tricky,
            "prompt": f"a{tricky}",
            "negative_prompt": tricky,
            "tenant": tricky,
            "note": tricky,
            tricky: [tricky],
        }
        for tricky in TRICKY
    ]
    take_in(engine, write(tmp_path / "m.jsonl", wanted))
    stored = rows_of(
        engine, "SELECT row_id, prompt, negative_prompt, tenant, meta FROM jobs ORDER BY ordinal"
    )
    assert stored == [
        {
            "row_id": tricky,
            "prompt": f"a{tricky}",
            "negative_prompt": tricky,
            "tenant": tricky,
            "meta": {"note": tricky, tricky: [tricky]},
        }
        for tricky in TRICKY
    ]


def test_silent_columns_are_null_or_default(engine: Engine, tmp_path: Path) -> None:
    take_in(
        engine,
        write(tmp_path / "m.jsonl", [{"prompt": "a", "upscale": 4, "noise_level": 30}, {"prompt": "b"}]),
    )
    [first, second] = rows_of(engine, "SELECT * FROM jobs ORDER BY ordinal")
    assert (first["noise_level"], second["noise_level"]) == (30, None)
    assert (second["row_id"], second["tenant"], second["negative_prompt"], second["meta"]) == (
        None,
        None,
        "",
        {},
    )
    assert (second["steps"], second["guidance_scale"], second["sampler"]) == (4, 7.5, "ddim")
    assert first["lane_id"] != second["lane_id"]


def test_lanes_and_rejects_come_in_between(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.ingest.bulk_insert._WAITING_REJECTS", 3)
    monkeypatch.setattr("scheduler.ingest.copy_format.BLOCK_LINES", 4)
    given: list[dict[str, object]] = [
        {
            "prompt": f"p{n}",
            "width": 64 + 8 * (n % 5),
            "num_images": 1 + n % 3,
            "steps": 0 if n % 4 == 1 else 2,
        }
        for n in range(50)
    ]
    ingested = take_in(engine, write(tmp_path / "m.jsonl", given))
    good = [n for n in range(50) if n % 4 != 1]
    assert (ingested.rows, ingested.rejected, ingested.jobs) == (50, 13, sum(1 + n % 3 for n in good))
    jobs = rows_of(
        engine,
        "SELECT prompt, ordinal, index, width FROM jobs j JOIN lanes l ON l.id = lane_id ORDER BY j.id",
    )
    wanted = [(f"p{n}", n, index, 64 + 8 * (n % 5)) for n in good for index in range(1 + n % 3)]
    assert [tuple(job.values()) for job in jobs] == wanted
    rejects = rows_of(engine, 'SELECT ordinal, line, "column" FROM rejects ORDER BY id')
    assert [tuple(reject.values()) for reject in rejects] == [
        (n, n + 1, "steps") for n in range(50) if n % 4 == 1
    ]
    job_counts = rows_of(engine, "SELECT lane_id, sum(delta) AS n FROM job_counts GROUP BY 1 ORDER BY 1")
    assert job_counts == rows_of(engine, "SELECT lane_id, count(*) AS n FROM jobs GROUP BY 1 ORDER BY 1")
    assert rows_of(engine, "SELECT rows, rejected, jobs FROM batches") == [
        {"rows": 50, "rejected": 13, "jobs": ingested.jobs}
    ]


@pytest.mark.parametrize("count", [3, 3_000])
def test_a_strict_ingest_that_stops_leaves_nothing(engine: Engine, tmp_path: Path, count: int) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"p{n}"} for n in range(count)]
    path = write(tmp_path / "m.jsonl", [*rows, {"prompt": ""}])
    with pytest.raises(ManifestError, match=f"line {count + 1}, column prompt"):
        take_in(engine, path, strict=True)
    counts = "SELECT (SELECT count(*) FROM batches) AS batches, (SELECT count(*) FROM jobs) AS jobs"
    assert rows_of(engine, counts) == [{"batches": 0, "jobs": 0}]
    assert take_in(engine, path).jobs == count


def test_a_file_cut_off_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"prompt": f"prompt number {n}"} for n in range(5_000)])
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(path.read_bytes())[:-100])
    with pytest.raises(ManifestError, match="truncated"):
        take_in(engine, cut)
    assert rows_of(engine, "SELECT * FROM batches") == rows_of(engine, "SELECT * FROM jobs") == []


def test_a_load_of_many_settings_forgets_some(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.ingest.bulk_insert._KINDS", 3)
    given: list[dict[str, object]] = [
        {"prompt": "p", "steps": 1 + n % 10, "guidance_scale": n / 2} for n in range(40)
    ]
    assert take_in(engine, write(tmp_path / "m.jsonl", given)).jobs == 40
    stored = rows_of(engine, "SELECT steps, guidance_scale FROM jobs ORDER BY ordinal")
    assert [tuple(row.values()) for row in stored] == [(1 + n % 10, n / 2) for n in range(40)]
