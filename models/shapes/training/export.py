"""Export trained modules as checkpoints in the formats of diffusers and transformers, weights in float16."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.engine.schedulers import noise_schedule
from models.shapes.training.networks.clip import DEVIATION, MEAN
from models.shapes.training.networks.upscaler import MAX_NOISE_LEVEL, low_res_schedule
from models.shapes.training.stages import TrainingStages

STAGES: dict[str, tuple[str, ...]] = {
    "shapes": (
        "autoencoder",
        "evening",
        "decoder",
        "text",
        "text2image",
        "pairs",
        "finish",
        "decoder-finish",
    ),
    "shapes-clip": ("clip",),
    "shapes-safety": ("clip", "safety", "safety-finish"),
    "shapes-x4": ("upscaler-autoencoder", "upscaler", "upscaler-finish"),
}


def export(trained: TrainingStages, to: Path) -> list[str]:
    """Write the checkpoints of finished stages, each with its training log, under `to`; return their names."""
    _fresh(to)
    ready = [name for name, stages in STAGES.items() if all(map(trained.is_finished, stages))]
    for name in ready:
        _WRITERS[name](trained, to / name)
        _forget_places(to / name)
        _training_log(trained.folder, to / name, STAGES[name])
    return ready


def _forget_places(folder: Path) -> None:
    """Remove from configurations the local folder that weights were loaded from."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _text2image(trained: TrainingStages, to: Path) -> None:
    from diffusers import StableDiffusionPipeline  # noqa: PLC0415

    model = trained.finish
    StableDiffusionPipeline(
        vae=trained.decoder_finish.half(),
        text_encoder=model.text_encoder.half(),
        tokenizer=trained.tokenizer,
        unet=model.unet.half(),
        scheduler=noise_schedule("v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(to)
    _slim_tokenizer(to / "tokenizer")


def _upscaler(trained: TrainingStages, to: Path) -> None:
    from diffusers import StableDiffusionUpscalePipeline  # noqa: PLC0415

    model = trained.upscaler_finish
    StableDiffusionUpscalePipeline(
        vae=trained.upscaler_autoencoder.half(),
        text_encoder=model.text_encoder.half(),
        tokenizer=trained.tokenizer,
        unet=model.unet.half(),
        low_res_scheduler=low_res_schedule(),
        scheduler=noise_schedule("v_prediction", "trailing"),
        max_noise_level=MAX_NOISE_LEVEL,
    ).save_pretrained(to)
    _slim_tokenizer(to / "tokenizer")


def _clip(trained: TrainingStages, to: Path) -> None:
    trained.clip.half().save_pretrained(to)
    trained.tokenizer.save_pretrained(to)
    _slim_tokenizer(to)
    _processor().save_pretrained(to)


def _safety(trained: TrainingStages, to: Path) -> None:
    trained.safety_finish.half().save_pretrained(to)
    _processor().save_pretrained(to)


def _processor() -> Any:
    from transformers import CLIPImageProcessorPil  # noqa: PLC0415

    size = {"height": 64, "width": 64}
    return CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size=size, image_mean=list(MEAN), image_std=list(DEVIATION)
    )


def _slim_tokenizer(folder: Path) -> None:
    """Keep vocab.json and merges.txt, and remove tokenizer.json, 60 kB of the same content."""
    vocab = folder / "tokenizer.json"
    if vocab.exists() and not (folder / "vocab.json").exists():
        model = json.loads(vocab.read_text(encoding="utf-8"))["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    vocab.unlink(missing_ok=True)


_WRITERS: dict[str, Callable[[TrainingStages, Path], None]] = {
    "shapes": _text2image,
    "shapes-clip": _clip,
    "shapes-safety": _safety,
    "shapes-x4": _upscaler,
}


def _training_log(work: Path, to: Path, stages: tuple[str, ...]) -> None:
    """Copy the training logs of these stages, and write the model card from them."""
    for stage in stages:
        for ending in ("json", "jsonl"):
            shutil.copyfile(work / f"{stage}.{ending}", to / f"training-{stage}.{ending}")
    (to / "README.md").write_text(model_card(to, stages), encoding="utf-8")


def model_card(folder: Path, stages: tuple[str, ...]) -> str:
    """Return a Markdown model card of the training logs in `folder`."""
    lines = [
        f"# {folder.name}",
        "",
        "Made by `python -m models.shapes.train`; `docs/shapes.md` says what it is and how well it does.",
        "Losses of every 50 steps are in `training-*.jsonl`, versions in `training-*.json`.",
        "",
        "| stage | steps | batch | rate | seed | first losses | last losses | hours | on |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stage in stages:
        note = json.loads((folder / f"training-{stage}.json").read_text(encoding="utf-8"))
        logged = (folder / f"training-{stage}.jsonl").read_text(encoding="utf-8").splitlines()
        plan = note["plan"]
        cells = (
            stage,
            plan["steps"],
            plan["rows"],
            plan["rate"],
            note["seed"],
            _losses(logged[0]),
            _losses(logged[-1]),
            note["hours"],
            f"{note['device']}, {note['threads']} used",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def _losses(line: str) -> str:
    known = {"step", "seconds", "rate"}
    return ", ".join(f"{name} {value:g}" for name, value in json.loads(line).items() if name not in known)
