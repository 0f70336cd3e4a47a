"""The cache of loaded models of a worker process."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from jobs.job_dataclasses import Lane, LaneId
from jobs.manifest import split_loras
from jobs.monitoring import metrics
from jobs.settings import Settings
from jobs.states import Decoder, Scoring
from models.assess.prompt_filter import PromptTerms
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError, InterruptedRender, ModelError
from models.store.resolve_checkpoint import Checkpoint, resolve
from worker.model_cache.batch_size import WORTH_COMPILING, WORTH_TRYING, BatchSizes
from worker.model_cache.lane_models import Clip, LaneModels, LaneModelsCache, ModelKey, Role, classifiers_of

if TYPE_CHECKING:
    from models.assess.safety_image_classifier import ImageClassifier
    from models.runtime.compile_options import CompileOptions
    from models.runtime.device import Device

log = logging.getLogger(__name__)

Part = TypeVar("Part")


class _LoadingStopped(BaseException):
    """Raised by a signal handler while models load. A BaseException, since libraries catch Exception and fall back."""


class ModelCache:
    """Loads models when a lane first needs them, and keeps those of the last few lanes while they fit in memory."""

    def __init__(self, settings: Settings, device_index: int) -> None:
        self.settings = settings
        self.device_index = device_index
        self.terms = PromptTerms.load(settings.prompt_terms)
        self._batch_sizes = BatchSizes(settings)
        self._is_loading = False
        self._jobs: tuple[LaneId, int] = LaneId(0), 0
        self._cached = LaneModelsCache(settings.model_cache_size)
        self._parts: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()

    def lane_models(self, lane: Lane) -> LaneModels:
        """Return the lane's models, loaded if need be; raises ModelError if something is missing."""
        return self._cached.get(self._key(lane), lambda: self._timed_load(lane), lambda: self._has_room(lane))

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Let `stop_loading` abort the work in this block, which then raises InterruptedRender."""
        try:
            self._is_loading = True
            yield
        except _LoadingStopped:
            raise InterruptedRender("asked to stop while models were loaded") from None
        finally:
            self._is_loading = False

    def stop_loading(self) -> None:
        """Abort loading. Called by a signal handler in the thread that loads; has no effect outside of `loading`."""
        if self._is_loading:
            self._is_loading = False
            raise _LoadingStopped

    def models(self) -> set[str]:
        """Return the ids of the models that are loaded."""
        return {key.model for key in self._cached}

    def check_device(self) -> None:
        """Raise if a device that holds models doesn't compute any more."""
        for device in self._cached.devices():
            device.check()

    def rows(self, lane: Lane, role: Role = "generate") -> int:
        """Return the number of images per device batch of the lane."""
        lane_models = self.lane_models(lane)
        known, jobs = self._jobs
        return self._batch_sizes.of(
            lane_models.site(lane, role), lane_models.device.rows, jobs if known == lane.id else None
        )

    def lower_rows(self, lane: Lane, role: Role = "generate") -> bool:
        """Free memory after it ran out: unload other lanes' models if there are any, else halve the batch size.

        Returns False when the batch is one image already.
        """
        if self._cached.drop_all_but(self._key(lane)):
            return True
        rows = self.rows(lane, role)
        if rows > 1:
            lane_models = self.lane_models(lane)
            self._batch_sizes.lower(
                lane_models.site(lane, role), rows // 2, is_ours=lane_models.device.is_mostly_ours()
            )
        return rows > 1

    def compile_options(self, lane: Lane) -> "CompileOptions":
        """Return the lane's compile options: small lanes are not compiled unless the settings require it."""
        own, (known, jobs) = self.lane_models(lane).compile_options, self._jobs
        is_small = known == lane.id and jobs < WORTH_COMPILING
        return own.uncompiled() if is_small and self.settings.compile == "auto" else own

    def prepare(self, lane: Lane, jobs: int) -> None:
        """Load the models for a lane of this many jobs, and measure the best batch size if that pays."""
        lane_models = self.lane_models(lane)
        self._jobs = lane.id, jobs
        if jobs >= WORTH_TRYING:
            for role in lane_models.roles(lane):
                self._batch_sizes.measure(
                    lane_models.site(lane, role), partial(lane_models.measure_throughput, lane, role)
                )

    def _key(self, lane: Lane) -> ModelKey:
        return ModelKey.of(lane, self.settings.weights)

    def _has_room(self, lane: Lane) -> bool:
        """Whether the lane's models, and as much again for activations, fit beside those that are loaded."""
        card = Catalogue.load(self.settings.models_path).get(lane.model)
        device, checkpoint = self._device(card), self._resolve(card)
        # Checkpoints mostly hold 16-bit weights, which are converted to 32 bits on the CPU.
        needed = 2 * checkpoint.weight_bytes * (2 if device.name == "cpu" else 1)
        return device.free_memory() > needed

    def _device(self, card: Card) -> "Device":
        from models.runtime.device import pick_device  # noqa: PLC0415

        return pick_device(self.settings.device, index=self.device_index, precision=card.precision)

    def _timed_load(self, lane: Lane) -> LaneModels:
        began_s = time.monotonic()
        loaded = self._load(lane)
        metrics.MODEL_LOAD_SECONDS.observe(time.monotonic() - began_s, lane.model)
        return loaded

    def _load(self, lane: Lane) -> LaneModels:
        from models.assess.safety_checker import SafetyChecker  # noqa: PLC0415 - imports torch, only needed to render
        from models.diffusion.token_counter import TokenCounter  # noqa: PLC0415
        from models.runtime.compile_options import CompileOptions  # noqa: PLC0415
        from models.runtime.memory_options import MemoryOptions  # noqa: PLC0415

        settings = self.settings
        catalogue = Catalogue.load(settings.models_path)
        card = catalogue.get(lane.model)
        device = self._device(card)
        memory_options = MemoryOptions.choose(self._key(lane).weights, settings.low_memory, device)
        checkpoint = self._resolve(card)
        checking = self._resolve(catalogue.get(_named(card.safety_checker, card, "safety checker")))
        lane_models = LaneModels(
            card=card,
            checkpoint=checkpoint,
            device=device,
            tokens=TokenCounter.load(checkpoint),
            safety=self._part(
                ("safety", checking.digest, str(device.dtype), *checking.card.concepts),
                lambda: SafetyChecker.load(checking, device),
            ),
            memory_options=memory_options,
            compile_options=CompileOptions.choose(settings.compile, memory_options, device),
            clip=self._clip(card, lane, catalogue, device),
            classifiers=tuple(self._classifier(id, lane, catalogue, device) for id in classifiers_of(lane)),
        )
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.data_dir / "compiled"))
        if card.family != "upscaler":
            lane_models = self._with_model(lane_models, lane, catalogue)
        if lane.policy.decoder == Decoder.TINY:
            lane_models = self._with_decoder(lane_models, catalogue)
        return self._with_upscaler(lane_models, catalogue) if lane.upscale else lane_models

    def _with_model(self, lane_models: LaneModels, lane: Lane, catalogue: Catalogue) -> LaneModels:
        from models.families.registry import family_of  # noqa: PLC0415

        loras = [(self._resolve(catalogue.get(id)), weight) for id, weight in split_loras(lane.lora)]
        mixed = (f"{lora.digest}:{weight}" for lora, weight in loras)
        diffusion = self._part(
            (
                "diffusion",
                lane_models.checkpoint.digest,
                lane_models.checkpoint.card.id,
                lane_models.memory_options.weights,
                *mixed,
            ),
            lambda: family_of(lane_models.checkpoint).load(
                lane_models.checkpoint,
                lane_models.device,
                loras=loras,
                memory_options=lane_models.memory_options,
                compile_options=lane_models.compile_options,
            ),
        )
        return replace(lane_models, diffusion=diffusion, loras=tuple(checkpoint for checkpoint, _ in loras))

    def _with_decoder(self, lane_models: LaneModels, catalogue: Catalogue) -> LaneModels:
        from models.diffusion.tiny_decoder import SmallDecoder  # noqa: PLC0415

        card, device = lane_models.card, lane_models.device
        checkpoint = self._resolve(catalogue.get(_named(card.decoder, card, "small decoder")))
        decoder = self._part(
            ("decoder", checkpoint.digest, str(device.dtype), str(lane_models.compile_options.channels_last)),
            lambda: SmallDecoder.load(
                checkpoint, device, vae_factor=card.vae_factor, compile_options=lane_models.compile_options
            ),
        )
        return replace(lane_models, decoder=decoder)

    def _with_upscaler(self, lane_models: LaneModels, catalogue: Catalogue) -> LaneModels:
        from models.families.registry import family_of  # noqa: PLC0415

        card, checkpoint = lane_models.card, lane_models.checkpoint
        if card.family != "upscaler":
            checkpoint = self._resolve(catalogue.get(_named(card.upscaler, card, "upscaler")))
        upscaler = self._part(
            (
                "upscaler",
                checkpoint.digest,
                str(lane_models.device.dtype),
                lane_models.memory_options.weights,
            ),
            lambda: family_of(checkpoint).load(
                checkpoint,
                lane_models.device,
                memory_options=lane_models.memory_options,
                compile_options=lane_models.compile_options,
            ),
        )
        return replace(lane_models, upscaler=upscaler, upscaler_checkpoint=checkpoint)

    def _clip(self, card: Card, lane: Lane, catalogue: Catalogue, device: "Device") -> Clip | None:
        """Return the model's CLIP scorer; if it isn't installed, raise only if the batch requires scores."""
        from models.assess.clip_score import ClipScorer  # noqa: PLC0415

        is_needed = lane.policy.clip_score == Scoring.ON
        if lane.policy.clip_score == Scoring.OFF or (card.clip is None and not is_needed):
            return None
        try:
            checkpoint = self._resolve(catalogue.get(_named(card.clip, card, "clip")))
            scorer = self._part(
                ("clip", checkpoint.digest, str(device.dtype)), lambda: ClipScorer.load(checkpoint, device)
            )
            return Clip(checkpoint.card.id, checkpoint.digest, scorer)
        except ModelError as error:
            if is_needed:
                raise
            log.info("no CLIP scores: %s", error)
            return None

    def _classifier(self, id: str, lane: Lane, catalogue: Catalogue, device: "Device") -> "ImageClassifier":
        """Return a further safety checker. Raises CheckpointError if it lacks a label that the batch names."""
        from models.assess.safety_image_classifier import ImageClassifier  # noqa: PLC0415

        try:
            checkpoint = self._resolve(catalogue.get(id))
        except ModelError as error:
            raise CheckpointError(f"the batch's `safety_checkers` names {id}: {error}") from None
        classifier = self._part(
            ("classifier", checkpoint.digest, str(device.dtype), id, *checkpoint.card.labels),
            lambda: ImageClassifier.load(checkpoint, device),
        )
        wanted = lane.policy.checker_thresholds.labels[id]
        if not wanted or not set(wanted) <= set(classifier.labels):
            raise CheckpointError(
                f"{id} has the labels {', '.join(classifier.labels)}, but the batch's `safety_checkers` names "
                f"{', '.join(wanted) or 'none'}"
            )
        return classifier

    def _part(self, key: tuple[str, ...], load: Callable[[], Part]) -> Part:
        """Return a model that loaded lane models share already, else load it now."""
        found = self._parts.get(key)
        if found is None:
            self._parts[key] = found = load()
        part: Part = found
        return part

    def _resolve(self, card: Card) -> Checkpoint:
        return resolve(card, self.settings.models_path)


def _named(card_id: str | None, card: Card, role: str) -> str:
    if card_id is None:
        raise ModelError(f"model {card.id!r} has no {role}: name one in its card")
    return card_id
