"""Rows as version 0006 wrote them: a batch in the middle of its work, and two that wait."""

import hashlib
import json
from pathlib import Path

from sqlalchemy import Engine

import migrations
from jobs.storage.key_layout import image_key
from tests.factories import change

OLD = "0006"
FOXES, BIRDS = 8, 6
NIGHT = [{"prompt": f"fox {n}", "steps": 2, "label": "fox"} for n in range(FOXES)] + [
    {"prompt": "tall", "steps": 2, "height": 72, "tenant": "ada", "label": "bird", "num_images": 2}
]
POLICY = {
    "batch_seed": 0,
    "safety": "flag",
    "watermark": "best-effort",
    "format": "webp",
    "quality": 80,
    "parameters": False,
    "max_attempts": 2,
    "clip_score": "off",
    "target": FOXES - 2,
    "target_per": "label",
    "top_up": 0.5,
}
DONE = {(1, 0): b"fox 1", (8, 1): b"bird 1"}
"""Images that the former version delivered, by ordinal and index."""

BATCHES = """
    INSERT INTO batches (name, digest, manifest, manifest_sha256, settings, output, seed, safety, watermark, format,
        quality, parameters, max_attempts, priority, "rows", jobs, clip_score, "window", opens_at, closes_at,
        not_before, deadline, canary, canary_bound, canary_verdict, target, target_per, top_up, deep_cache, weights,
        decoder)
    VALUES
        ('night', 'set below', 'night.jsonl', 's', '{"strict": false, "columns": {}, "renames": {}}', '/', 0, 'flag',
         'best-effort', 'webp', 80, false, 2, 3, 9, 14, 'off', NULL, NULL, NULL, NULL, NULL, 1, 0.5, 'passed', 6,
         'label', 0.5, 1, NULL, 'full'),
        ('sketches', 'd2', 'sketches.jsonl', 's', '{}', '/', 7, 'block', 'off', 'png', 95, true, 3, 0, 3, 3, 'auto',
         NULL, NULL, NULL, '2026-01-01 20:00+00', '2100-01-01 07:00+00', 1, 0.25, NULL, NULL, NULL, 1, 2, 'fp8',
         'tiny'),
        ('evening', 'd3', 'evening.jsonl', 's', '{}', '/', 0, 'block', 'require', 'png', 95, true, 3, 0, 1, 1, 'auto',
         '20:00-07:00 UTC', now() + interval '20 hours', now() + interval '31 hours', NULL, NULL, 0, 0.5, NULL, NULL,
         NULL, 1, 1, NULL, 'full')
"""

LANES = """
    INSERT INTO lanes (batch_id, tenant, model, width, height, upscale, chosen_at, floor, image_s, batch_s) VALUES
        (1, '', 'tiny-random', 64, 64, 0, now(), 5, 0.5, 2), (1, 'ada', 'tiny-random', 64, 72, 0, now(), 0, NULL, NULL),
        (2, '', 'tiny-random', 64, 64, 0, NULL, 0, NULL, NULL), (3, '', 'tiny-random', 64, 64, 0, NULL, 0, NULL, NULL)
"""

JOBS = """
    INSERT INTO jobs (batch_id, lane_id, ordinal, index, prompt, negative_prompt, steps, guidance_scale, sampler, seed,
        tenant, meta, not_before)
    SELECT 1, 1, n, 0, 'fox ' || n, '', 2, 7.5, 'ddim', 666395429 + n, NULL, json '{"label": "fox"}',
        CASE WHEN n = 0 THEN now() END FROM generate_series(0, 7) AS n
    UNION ALL SELECT 1, 2, 8, n, 'tall', '', 2, 7.5, 'ddim', 1053672354 + n, 'ada', json '{"label": "bird"}', NULL
        FROM generate_series(0, 5) AS n
    UNION ALL SELECT 2, 3, n, 0, 'sketch', '', 2, 7.5, 'ddim', n, NULL, json '{}', CASE WHEN n = 0 THEN now() END
        FROM generate_series(0, 2) AS n
    UNION ALL SELECT 3, 4, 0, 0, 'star', '', 2, 7.5, 'ddim', 1, NULL, json '{}', NULL
"""

# Two done, two failed, three running: of these one lease has run out, two will. One waits for its second attempt.
STEPS = (
    """UPDATE jobs SET state = 'done', attempt = 1, worker = 'old', started_at = now(), finished_at = now()
       WHERE batch_id = 1 AND (ordinal, index) IN ((1, 0), (8, 1))""",
    """UPDATE jobs SET state = 'failed', attempt = 2, worker = 'old', started_at = now(), finished_at = now(),
       error_kind = 'model', error_text = 'it broke' WHERE batch_id = 1 AND ordinal = 2""",
    """UPDATE jobs SET state = 'failed', attempt = 1, worker = 'old', started_at = now(), finished_at = now(),
       error_kind = 'bad-input', error_text = 'no prompt' WHERE batch_id = 1 AND ordinal = 0""",
    """UPDATE jobs SET state = 'running', attempt = 1, worker = 'old', started_at = now(), lease = gen_random_uuid(),
       lease_until = now() - interval '1 second' WHERE batch_id = 1 AND ordinal = 3""",
    """UPDATE jobs SET state = 'running', attempt = 1, worker = 'old', started_at = now(), lease = gen_random_uuid(),
       lease_until = now() + interval '4 seconds' WHERE batch_id = 1 AND (ordinal, index) IN ((4, 0), (8, 0))""",
    """UPDATE jobs SET attempt = 1, not_before = now(), error_kind = 'model', error_text = 'it broke'
       WHERE batch_id = 1 AND ordinal = 5""",
    """INSERT INTO attempts (job_id, attempt, worker, outcome, error_kind, error_text, started_at)
       SELECT jobs.id, n, 'old', CASE WHEN n < 2 AND ordinal <> 0 THEN 'retried' ELSE 'failed' END, error_kind,
           error_text, now() FROM jobs, generate_series(1, attempt) AS n WHERE error_kind IS NOT NULL""",
    """INSERT INTO tallies (batch_id, lane_id, state, delta)
       SELECT batch_id, lane_id, 'queued', count(*) FROM jobs GROUP BY 1, 2
       UNION ALL SELECT batch_id, lane_id, 'queued', -1 FROM jobs WHERE state <> 'queued'
       UNION ALL SELECT batch_id, lane_id, state, 1 FROM jobs WHERE state <> 'queued'""",
    "INSERT INTO tenants (name, weight, used_s) VALUES ('ada', 2, 30), ('', 1, 60), ('*', 1, 60)",
    "INSERT INTO workers (name, device, seen_at) VALUES ('old', 'cpu', now() - interval '1 minute')",
)

IMAGE = """
    INSERT INTO images (job_id, batch_id, ordinal, index, key, format, width, height, bytes, sha256, prompt,
        negative_prompt, prompt_tokens, prompt_truncated, model, model_revision, model_digest, generated_width,
        generated_height, steps, guidance_scale, sampler, seed, upscale, tenant, safety_verdict, safety_scores,
        watermark, watermark_bit_accuracy, watermark_method, device, batch_rows, versions, timings, worker, attempt,
        meta)
    SELECT jobs.id, jobs.batch_id, ordinal, index, :key, 'webp', width, height, :bytes, :sha256, prompt, '', 4, false,
        model, 'built', repeat('0', 64), width, height, steps, guidance_scale, sampler, seed, 0, jobs.tenant, 'safe',
        '{"concepts": [-0.1]}', 'NMIL', 1, 'dwtDctSvd', 'cpu', 4, '{"torch": "2"}', '{"generate": 0.5}', worker,
        attempt, meta
    FROM jobs JOIN lanes ON lanes.id = lane_id
    WHERE jobs.batch_id = 1 AND ordinal = :ordinal AND index = :index
"""


def fill(engine: Engine, folder: Path) -> None:
    """Migrate an empty database to the former version, and put its rows there and its files into the folder."""
    output, manifest = folder / "output", "".join(json.dumps(row) + "\n" for row in NIGHT).encode()
    migrations.upgrade(engine, OLD)
    for statement in (BATCHES, LANES, JOBS, *STEPS):
        change(engine, statement)
    (folder / "night.jsonl").write_bytes(manifest)
    change(engine, "UPDATE batches SET output = :output", output=str(output))
    change(engine, "UPDATE batches SET digest = :digest WHERE id = 1", digest=_digest(manifest, output))
    for (ordinal, index), body in DONE.items():
        _deliver(engine, output, ordinal, index, body)


def _digest(manifest: bytes, output: Path) -> str:
    """The digest by which the former version knew the batch."""
    identity = {
        "manifest": hashlib.sha256(manifest).hexdigest(),
        "format": "jsonl",
        "reading": {"columns": {}, "renames": {}, "strict": False},
        "policy": POLICY | {"priority": 0},
        "output": str(output),
        "default_model": "tiny-random",
        "name": "night",
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _deliver(engine: Engine, output: Path, ordinal: int, index: int, body: bytes) -> None:
    sha256 = hashlib.sha256(body).hexdigest()
    key = image_key("night", ordinal, index, sha256, "webp")
    (output / key).parent.mkdir(parents=True, exist_ok=True)
    (output / key).write_bytes(body)
    change(engine, IMAGE, key=key, bytes=len(body), sha256=sha256, ordinal=ordinal, index=index)
