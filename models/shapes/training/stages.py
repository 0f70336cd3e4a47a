"""The training stages of the shapes models: dependencies, plans, seeds and saved modules."""

import json
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from models.runtime.device import pick_device, versions
from models.shapes.training import data, data_parallel
from models.shapes.training.loop import Course, Plan
from models.shapes.training.networks.autoencoder import (
    Weights,
    new_autoencoder,
    train_autoencoder,
    without_coarsest,
)
from models.shapes.training.networks.autoencoder_finetuning import even_out, train_decoder
from models.shapes.training.networks.clip import clip_tokenizer, train_clip
from models.shapes.training.networks.denoiser import new_denoiser, train_denoiser
from models.shapes.training.networks.finetuning_under_guidance import mixed, train_guided
from models.shapes.training.networks.safety_checker import new_safety_checker, train_safety_checker
from models.shapes.training.networks.text_encoder import train_text_encoder
from models.shapes.training.networks.upscaler import new_upscaler, train_upscaler
from models.shapes.training.sdedit_latents import Redrawing
from models.shapes.training.stage_outputs import keep, recall

PLANS = {
    "autoencoder": Plan(steps=2600, rows=32, rate=1.5e-3),
    "evening": Plan(steps=1800, rows=32, rate=1.5e-3),
    "text": Plan(steps=600, rows=128, rate=2e-3),
    "text2image": Plan(steps=12_000, rows=64, rate=2e-3, horizon=18_000),
    "pairs": Plan(steps=15_000, rows=64, rate=1e-3),
    "clip": Plan(steps=1500, rows=128, rate=1.5e-3),
    "safety": Plan(steps=900, rows=96, rate=7e-4),
    "upscaler-autoencoder": Plan(steps=1300, rows=24, rate=1.5e-3),
    "upscaler": Plan(steps=2000, rows=24, rate=2e-3),
    "upscaler-finish": Plan(steps=4000, rows=4, rate=1.5e-3),
    "decoder": Plan(steps=400, rows=32, rate=7e-4),
    "finish": Plan(steps=5_000, rows=64, rate=7e-4),
    "decoder-finish": Plan(steps=500, rows=32, rate=7e-4),
    "safety-finish": Plan(steps=900, rows=96, rate=7e-4),
}


_SEEDS = {
    "autoencoder": 11,
    "evening": 22,
    "text": 19,
    "text2image": 12,
    "pairs": 23,
    "clip": 13,
    "safety": 14,
    "upscaler-autoencoder": 15,
    "upscaler": 16,
    "upscaler-finish": 21,
    "decoder": 17,
    "finish": 20,
    "decoder-finish": 25,
    "safety-finish": 18,
}


_GUIDANCE = 2.6
"""A guidance of 4 to 7.5 then has the effect of 1.5 to 2.9 before, at which this domain's pictures are best."""


_OF_BEFORE = 0.1
"""Share of the weights from before guided training that is mixed into the trained ones."""


_PAIRS = 0.75
"""Share of scenes with two shapes from the stage `pairs` on."""


@dataclass(frozen=True)
class TrainingStages:
    """Training stages in a work folder; each property is a stage's module, loaded from its file or trained now."""

    folder: Path
    device: torch.device

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of all stages."""
        with tempfile.TemporaryDirectory() as folder:
            return clip_tokenizer(Path(folder))

    @cached_property
    def autoencoder(self) -> Any:
        """The f8 autoencoder, for pictures of 64 pixels."""

        def train(course: Course) -> Any:
            fresh = new_autoencoder((32, 32, 64, 64), 64, course.seed)
            return train_autoencoder(fresh, 0.18215, Weights(), data.pictures, course)

        return self._stage("autoencoder", train)

    @cached_property
    def evening(self) -> Any:
        """The f8 autoencoder after `even_out`, with uncorrelated latent channels."""
        return self._stage("evening", lambda course: even_out(self.autoencoder, course))

    @cached_property
    def decoder(self) -> Any:
        """The f8 autoencoder with a further trained decoder."""
        return self._stage("decoder", lambda course: train_decoder(self.evening, course))

    @cached_property
    def text(self) -> Any:
        """The text encoder."""
        return self._stage("text", lambda course: train_text_encoder(self.evening, self.tokenizer, course))

    @cached_property
    def text2image(self) -> Any:
        """The first stage of the UNet, with the text encoder."""

        def train(course: Course) -> Any:
            fresh = new_denoiser(self.text, course.seed)
            return train_denoiser(fresh, self.evening, self.tokenizer, course, pairs=0.5)

        return self._stage("text2image", train)

    @cached_property
    def pairs(self) -> Any:
        """The UNet trained further with more scenes of two shapes, which take longer to learn."""
        return self._stage(
            "pairs",
            lambda course: train_denoiser(self.text2image, self.evening, self.tokenizer, course, _PAIRS),
        )

    @cached_property
    def finish(self) -> Any:
        """The UNet trained further for guidance as strong as Stable Diffusion's."""

        def train(course: Course) -> Any:
            given = self.pairs
            trained = train_guided(given, self.evening, self.tokenizer, course, _GUIDANCE, _PAIRS)
            return mixed(trained, given, _OF_BEFORE)

        return self._stage("finish", train)

    @cached_property
    def decoder_finish(self) -> Any:
        """The decoder trained further on latents from the finished UNet."""

        def train(course: Course) -> Any:
            redraw = Redrawing(self.finish, self.tokenizer, self.device)
            return train_decoder(self.decoder, course, redraw)

        return self._stage("decoder-finish", train)

    @cached_property
    def clip(self) -> Any:
        """The small CLIP."""
        return self._stage("clip", lambda course: train_clip(self.tokenizer, course))

    @cached_property
    def safety(self) -> Any:
        """The safety checker."""
        return self._stage(
            "safety",
            lambda course: train_safety_checker(new_safety_checker(self.clip, course.seed), course),
        )

    @cached_property
    def safety_finish(self) -> Any:
        """The safety checker after further training."""
        return self._stage("safety-finish", lambda course: train_safety_checker(self.safety, course))

    @cached_property
    def upscaler_autoencoder(self) -> Any:
        """The f4 autoencoder, for pictures of 256 pixels; initialised from the f8 one."""

        def train(course: Course) -> Any:
            given = without_coarsest(self.decoder.cpu(), data.crops, 256, course.seed)
            weights = Weights(squared=5.0, divergence=1e-4)
            return train_autoencoder(given, 0.08333, weights, data.crops, course)

        return self._stage("upscaler-autoencoder", train)

    @cached_property
    def upscaler(self) -> Any:
        """The upscaler's UNet and text encoder, trained on small crops, which are quick to learn from."""

        def train(course: Course) -> Any:
            fresh = new_upscaler(self.tokenizer, course.seed)
            return train_upscaler(
                fresh, 64, self.upscaler_autoencoder, self.tokenizer, course, as_sampled=False
            )

        return self._stage("upscaler", train)

    @cached_property
    def upscaler_finish(self) -> Any:
        """The upscaler trained further on large crops: norms are over whole pictures, which are mostly background."""
        return self._stage(
            "upscaler-finish",
            lambda course: train_upscaler(
                self.upscaler, 192, self.upscaler_autoencoder, self.tokenizer, course, as_sampled=True
            ),
        )

    def is_finished(self, stage: str) -> bool:
        """Whether a stage is trained."""
        return (self.folder / stage).exists()

    def _stage(self, name: str, train: Callable[[Course], Any]) -> Any:
        """Load a stage's module, or train and save it with its log."""
        kept = self.folder / name
        if not kept.exists():
            log = self.folder / f"{name}.jsonl"
            plan = replace(PLANS[name], rows=max(1, PLANS[name].rows // data_parallel.size()))
            module = train(Course(plan, self.device, data_parallel.own_seed(_SEEDS[name]), log))
            if data_parallel.is_first():
                self._note(name, json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["seconds"])
                keep(module, kept)
            data_parallel.wait()
        return recall(kept).to(self.device).eval()

    def _note(self, name: str, seconds: float) -> None:
        """Write the metadata of the training, for the model card."""
        device = pick_device(self.device.type)
        note = {
            "stage": name,
            "plan": asdict(PLANS[name]),
            "seed": _SEEDS[name],
            "hours": round(seconds / 3600, 3),
            "device": device.label,
            "processes": data_parallel.size(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "versions": versions(),
        }
        (self.folder / f"{name}.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
