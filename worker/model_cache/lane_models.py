"""The models that a lane needs, and an LRU cache of them by lane."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from jobs.job_dataclasses import Lane
from jobs.policy.safety_label_thresholds import SERVICE_CHECKERS
from jobs.process_lifecycle import without_collection
from models.catalogue.card import Card
from models.errors import OutOfMemoryError
from models.runtime.batch_size_profile import Site
from models.store.resolve_checkpoint import Checkpoint

if TYPE_CHECKING:
    from models.assess.clip_score import ClipScorer
    from models.assess.safety_checker import SafetyChecker
    from models.assess.safety_image_classifier import ImageClassifier
    from models.diffusion.requests import ImageRequest
    from models.diffusion.tiny_decoder import SmallDecoder
    from models.diffusion.token_counter import TokenCounter
    from models.families.family import ModelFamily
    from models.families.upscaler import UpscaleRequest
    from models.runtime.compile_options import CompileOptions
    from models.runtime.device import Device
    from models.runtime.memory_options import MemoryOptions

log = logging.getLogger(__name__)

Role = Literal["generate", "upscale"]


class ModelKey(NamedTuple):
    """The cache key: the options of a lane that determine which models it needs."""

    model: str
    lora: str
    is_upscaled: bool
    clip_score: str
    weights: str
    decoder: str
    classifiers: tuple[tuple[str, ...], ...] = ()
    """Ids with the labels that the lane needs: a checkpoint may have been exchanged since it was loaded."""

    @classmethod
    def of(cls, lane: Lane, weights: str) -> "ModelKey":
        """Return the key of this lane; `weights` is the default if the lane sets none."""
        how = lane.policy.weights or weights, lane.policy.decoder
        labels = lane.policy.checker_thresholds.labels
        classifiers = tuple((name, *sorted(labels[name])) for name in classifiers_of(lane))
        return cls(lane.model, lane.lora, bool(lane.upscale), lane.policy.clip_score, *how, classifiers)


def classifiers_of(lane: Lane) -> list[str]:
    """Return the ids of the classifiers that check the lane's images beside the model's safety checker."""
    return [name for name in lane.policy.checker_thresholds.labels if name not in SERVICE_CHECKERS]


@dataclass(frozen=True)
class Clip:
    """A CLIP scorer, the id of its card, and the SHA-256 of its checkpoint."""

    model: str
    digest: str
    scorer: "ClipScorer"


@dataclass(frozen=True)
class LaneModels:
    """A diffusion model, an upscaler, or both, with the models that check their images.

    `loras` are those merged into the model, in the lane's order; `classifiers` check images beside `safety`.
    """

    card: Card
    checkpoint: Checkpoint
    device: "Device"
    tokens: "TokenCounter"
    safety: "SafetyChecker"
    memory_options: "MemoryOptions"
    compile_options: "CompileOptions"
    diffusion: "ModelFamily[ImageRequest] | None" = None
    loras: tuple[Checkpoint, ...] = ()
    upscaler: "ModelFamily[UpscaleRequest] | None" = None
    upscaler_checkpoint: Checkpoint | None = None
    clip: Clip | None = None
    decoder: "SmallDecoder | None" = None
    classifiers: "tuple[ImageClassifier, ...]" = ()

    def site(self, lane: Lane, role: Role) -> Site:
        """The device, model and size under which the lane's batch size is stored."""
        checkpoint = self.upscaler_checkpoint if role == "upscale" else self.checkpoint
        assert checkpoint is not None
        return Site.on(self.device, checkpoint.card.id, lane.width, lane.height, self.memory_options.weights)

    def roles(self, lane: Lane) -> list[Role]:
        """The roles that run at the lane's size; none in a lane that takes images of any size."""
        roles: dict[Role, object] = {"generate": self.diffusion, "upscale": self.upscaler}
        return [role for role, model in roles.items() if model and lane.width]

    def measure_throughput(self, lane: Lane, role: Role, rows: int) -> float:
        """Measure the throughput of a batch of `rows` images, in image steps per second; raises OutOfMemoryError."""
        model = self.upscaler if role == "upscale" else self.diffusion
        assert model is not None
        return model.measure_throughput(lane.width, lane.height, rows)

    def notes(self, compile_options: "CompileOptions | None" = None) -> dict[str, str]:
        """Runtime options that affect pixels, for the image row; a lane may have `compile_options` of its own."""
        notes = self.memory_options.notes() | (compile_options or self.compile_options).notes()
        if self.decoder:
            notes |= {"decoder": "tiny", "decoder_digest": self.decoder.checkpoint.digest}
        return notes


class LaneModelsCache:
    """An LRU cache of lane models: at most `most` of them, and fewer where they don't fit in memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_key: OrderedDict[ModelKey, LaneModels] = OrderedDict()

    def __iter__(self) -> Iterator[ModelKey]:
        return iter(self._by_key)

    def devices(self) -> "set[Device]":
        """Return the devices that hold models."""
        return {lane_models.device for lane_models in self._by_key.values()}

    def get(self, key: ModelKey, load: Callable[[], LaneModels], has_room: Callable[[], bool]) -> LaneModels:
        """Return the lane models, loaded if need be; the least recently used are dropped until `has_room()`."""
        if key not in self._by_key:
            while self._by_key and not (len(self._by_key) < self._most and has_room()):
                self._drop_oldest()
            self._by_key[key] = self._loaded(load)
        self._by_key.move_to_end(key)
        return self._by_key[key]

    def drop_all_but(self, key: ModelKey) -> bool:
        """Drop all others; returns whether there were any."""
        others = len(self._by_key) - (key in self._by_key)
        if key in self._by_key:
            self._by_key.move_to_end(key)
        for _ in range(others):
            self._drop_oldest()
        return others > 0

    def _loaded(self, load: Callable[[], LaneModels]) -> LaneModels:
        while True:
            try:
                with without_collection():  # it imports torch, diffusers and transformers the first time
                    return load()
            except OutOfMemoryError:
                if not self._by_key:
                    raise
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        key, lane_models = self._by_key.popitem(last=False)
        log.info("%s makes room for another model", key.model)
        device = lane_models.device
        del lane_models
        device.give_back()
