"""`python -m models.shapes.train`: trains every shapes model, an hour or two on two cores, and writes checkpoints.

A stage that has finished is not trained again; remove its folder under the work folder to have it anew.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from models.device import pick_device, versions
from models.shapes.training import data
from models.shapes.training.autoencoder import train_autoencoder, train_decoder
from models.shapes.training.clip import clip_tokenizer, train_clip
from models.shapes.training.denoiser import (
    new_denoiser,
    noise_schedule,
    train_denoiser,
)
from models.shapes.training.export import export
from models.shapes.training.keeping import keep, recall
from models.shapes.training.loop import Plan
from models.shapes.training.safety import new_safety_checker, train_safety_checker
from models.shapes.training.upscaler import train_upscaler

PLANS = {
    "autoencoder": Plan(steps=2600, rows=32, rate=1.5e-3),
    "text2image": Plan(steps=3810, rows=64, rate=2e-3, horizon=5000),
    "clip": Plan(steps=1800, rows=128, rate=1.5e-3),
    "safety": Plan(steps=900, rows=96, rate=7e-4),
    "upscaler-autoencoder": Plan(steps=1200, rows=24, rate=2e-3),
    "upscaler": Plan(steps=1000, rows=24, rate=2e-3),
    "decoder": Plan(steps=600, rows=32, rate=7e-4),
    "safety-finish": Plan(steps=900, rows=96, rate=7e-4),
    "finish": Plan(steps=1100, rows=64, rate=8e-4),
}
_SEEDS = {
    "autoencoder": 11,
    "text2image": 12,
    "clip": 13,
    "safety": 14,
    "upscaler-autoencoder": 15,
    "upscaler": 16,
    "decoder": 17,
    "safety-finish": 18,
    "finish": 18,
}


@dataclass(frozen=True)
class Workshop:
    """Where training happens; each property is a stage's module, from its file or trained now."""

    folder: Path
    device: torch.device

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of all of them."""
        return clip_tokenizer(self.folder / "tokenizer")

    @cached_property
    def autoencoder(self) -> Any:
        """f8, for pictures of 64 pixels."""
        return self._stage(
            "autoencoder",
            lambda plan, seed, log: train_autoencoder(
                (32, 32, 64, 64), 64, 0.18215, data.pictures, plan, self.device, seed, log
            ),
        )

    @cached_property
    def decoder(self) -> Any:
        """The f8 autoencoder with a decoder that was trained on."""
        return self._stage(
            "decoder",
            lambda plan, seed, log: train_decoder(
                self.autoencoder, data.pictures, plan, self.device, seed, log
            ),
        )

    @cached_property
    def text2image(self) -> Any:
        """UNet and text encoder: what things look like."""

        def train(plan: Plan, seed: int, log: Path) -> Any:
            fresh = new_denoiser(self.tokenizer, seed)
            return train_denoiser(fresh, self.autoencoder, self.tokenizer, plan, self.device, seed, log)

        return self._stage("text2image", train)

    @cached_property
    def finish(self) -> Any:
        """The same, trained on at a low rate."""

        def train(plan: Plan, seed: int, log: Path) -> Any:
            given = self.text2image.train().requires_grad_(True)
            return train_denoiser(given, self.autoencoder, self.tokenizer, plan, self.device, seed, log)

        return self._stage("finish", train)

    @cached_property
    def clip(self) -> Any:
        """The small CLIP."""
        return self._stage(
            "clip", lambda plan, seed, log: train_clip(self.tokenizer, plan, self.device, seed, log)
        )

    @cached_property
    def safety(self) -> Any:
        """The safety checker."""

        def train(plan: Plan, seed: int, log: Path) -> Any:
            return train_safety_checker(new_safety_checker(self.clip, seed), plan, self.device, seed, log)

        return self._stage("safety", train)

    @cached_property
    def safety_finish(self) -> Any:
        """The same, trained on."""
        return self._stage(
            "safety-finish",
            lambda plan, seed, log: train_safety_checker(self.safety, plan, self.device, seed, log),
        )

    @cached_property
    def upscaler_autoencoder(self) -> Any:
        """f4, for pictures of 256 pixels."""
        return self._stage(
            "upscaler-autoencoder",
            lambda plan, seed, log: train_autoencoder(
                (16, 24, 32), 256, 0.08333, data.crops, plan, self.device, seed, log
            ),
        )

    @cached_property
    def upscaler(self) -> Any:
        """The upscaler's UNet and text encoder."""
        return self._stage(
            "upscaler",
            lambda plan, seed, log: train_upscaler(
                self.upscaler_autoencoder,
                noise_schedule("v_prediction"),
                self.tokenizer,
                plan,
                self.device,
                seed,
                log,
            ),
        )

    def is_finished(self, stage: str) -> bool:
        """Whether a stage needs no training any more."""
        return (self.folder / stage).exists()

    def _stage(self, name: str, train: Callable[[Plan, int, Path], Any]) -> Any:
        """The module of a stage: kept whole, with its log beside it."""
        kept = self.folder / name
        if not kept.exists():
            started = time.monotonic()
            module = train(PLANS[name], _SEEDS[name], self.folder / f"{name}.jsonl")
            self._note(name, time.monotonic() - started)
            keep(module, kept)
        return recall(kept).to(self.device).eval()

    def _note(self, name: str, seconds: float) -> None:
        """What a model card says of its training."""
        device = pick_device(self.device.type)
        note = {
            "stage": name,
            "plan": asdict(PLANS[name]),
            "seed": _SEEDS[name],
            "hours": round(seconds / 3600, 3),
            "device": device.label,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "versions": versions(),
        }
        (self.folder / f"{name}.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Train what is missing, then write the checkpoints."""
    parser = argparse.ArgumentParser(prog="python -m models.shapes.train", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("shapes-training"), help="logs and finished stages")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "weights", help="checkpoints")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--only", choices=list(PLANS), help="train this stage, and what it needs, and stop")
    parser.add_argument("--write", action="store_true", help="train nothing; write what has finished")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(chosen.work, torch.device(pick_device(chosen.device).name))
    for stage in [] if chosen.write else [chosen.only] if chosen.only else PLANS:
        getattr(workshop, stage.replace("-", "_"))
    if not chosen.only:
        print("written:", ", ".join(export(workshop, chosen.to)))


if __name__ == "__main__":
    main()
