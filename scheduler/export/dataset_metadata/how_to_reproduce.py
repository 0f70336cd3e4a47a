"""The section of a dataset's card that tells how to make its images again."""

import shlex

from scheduler.export.dataset_metadata.markdown import escaped, table
from scheduler.export.dataset_metadata.query_dataset_facts import BatchFacts, Facts


def reproduction(facts: Facts) -> str:
    """Return the section in Markdown: a command for each batch, with the digest of its manifest."""
    lines = ["## How to make it again", ""]
    for batch in facts.batches:
        lines += [
            f"Manifest `{escaped(batch.manifest)}`, SHA-256 `{batch.row['manifest_sha256']}`:",
            "",
            "```",
            _command(batch, facts),
            "```",
            "",
        ]
    sampled = [
        (row.sampler, str(row.steps), f"{row.guidance_scale:g}", f"{row.images:,}") for row in facts.samplers
    ]
    lines += [table(["sampler", "steps", "guidance", "images"], sampled)]
    lines += [
        "",
        "Every row has its seed, its model's digest and the versions that it was made with (`versions`).",
    ]
    return "\n".join(lines)


def _command(batch: BatchFacts, facts: Facts) -> str:
    columns = dict(batch.row["settings"].get("columns") or {})
    policy = batch.policy.model_dump(mode="json", exclude_defaults=True)
    models = [model for (model,) in facts.by("model")]
    parts = ["nightmill", "run", batch.manifest, "--name", batch.row["name"]]
    if len(models) == 1 and "model" not in columns:
        parts += ["--model", models[0]]
    for name, value in {**columns, **policy}.items():
        parts += ["--set", f"{name}={value}"]
    return shlex.join(parts)
