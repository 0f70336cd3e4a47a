"""A batch with many finished images, made by SQL: rows as a worker writes them, and image files where asked."""

import hashlib
from pathlib import Path

from sqlalchemy import Engine, text

from bench.harness.services import vacuum
from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.db.engine import run

_BATCH = text("""
    INSERT INTO batches (name, digest, manifest, manifest_sha256, settings, output, max_attempts, priority, rows, jobs)
    VALUES (:name, :name, 'prompts.jsonl', repeat('0', 64), '{}', :output, 3, 0, :images, :images) RETURNING id
""")
_IMAGES = text("""
    INSERT INTO images (job_id, batch_id, ordinal, index, row_id, key, format, width, height, bytes, sha256, prompt,
        negative_prompt, prompt_tokens, prompt_truncated, model, model_revision, model_digest, generated_width,
        generated_height, steps, guidance_scale, sampler, seed, upscale, safety_verdict, safety_scores, watermark,
        watermark_bit_accuracy, watermark_method, device, batch_rows, versions, timings, worker, attempt, meta,
        quality)
    SELECT CAST(:batch AS bigint) * 100000000 + n, :batch, n, 0, 'row-' || lpad(n::text, 8, '0'),
        CAST(:name AS text) || '/images/' || lpad((n / 1000)::text, 6, '0') || '/' || lpad(n::text, 9, '0') || '-00000.'
            || left(sha, 12) || '.png',
        'png', 512, 512, coalesce(CAST(:bytes AS bigint), 400000 + n % 1000), sha,
        'an old lighthouse under a stormy sky, watercolour on rough paper, soft light from the left, take ' || n,
        'blurred, text', 31, false, 'sd-v1-4', '133a221b8aa7292a167afc5127cb63fb5005638b', repeat('a1', 32), 512, 512,
        50, 7.5, 'pndm', mod(CAST(n AS numeric) * 6364136223846793005, 18446744073709551616), 0, 'safe',
        '{"concepts": [-0.11, -0.12, -0.09, -0.13, -0.1, -0.15, -0.12, -0.1, -0.11, -0.14, -0.12, -0.09, -0.08, -0.1,
          -0.12, -0.11, -0.13], "special_care": [-0.2, -0.19, -0.22]}',
        'NMIL', 1, 'dwtDctSvd', 'NVIDIA H200', 16,
        '{"torch": "2.13.0+cu130", "diffusers": "0.42.1", "transformers": "5.23.0", "nightmill": "0.1.0"}',
        '{"prompt_filter": 0.000113, "generate": 1.873212, "safety": 0.021311, "clip_score": 0.011202,
          "watermark": 0.005123, "encode": 0.013222, "verify_watermark": 0.004111, "upload": 0.002817}',
        'gpu-07/1', 1,
        json_build_object('label', (ARRAY['heron', 'lighthouse', 'tram', 'leopard'])[1 + n % 4],
            'label_id', n % 4, 'weight', n / 7.0),
        jsonb_build_object('clip_score', 20 + n % 100 / 8.0, 'clip_model', 'clip-vit-l-14')
    FROM generate_series(0, CAST(:images AS bigint) - 1) AS n,
        LATERAL (SELECT coalesce(CAST(:sha256 AS text), encode(sha256(int8send(n)), 'hex')) AS sha) AS hashed
    RETURNING id
""")


def finished_batch(
    engine: Engine, name: str, output: str, images: int, file: bytes | None = None
) -> BatchStatus:
    """Insert a batch of that many images; each of them is `file`, if one is given, and lies in the output folder."""
    sha256 = hashlib.sha256(file).hexdigest() if file else None
    about = {"name": name, "output": output, "images": images}
    (batch,) = run(engine, _BATCH, about)
    described = {"batch": batch.id, "sha256": sha256, "bytes": len(file) if file else None}
    run(engine, _IMAGES, about | described)
    vacuum(engine, "images")
    if file:
        for row in run(engine, text("SELECT key FROM images WHERE batch_id = :id"), {"id": batch.id}):
            path = Path(output) / row.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)
    return actions.status(engine, name)
