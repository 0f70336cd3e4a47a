"""The interface of a pipeline stage, and what a stage may use."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Protocol
from uuid import UUID

from jobs.job_dataclasses import Job, Lane
from jobs.setting_values.watermark_key import MarkKey
from jobs.settings import Settings
from jobs.states import LEAST_TILED_SIDE, WatermarkMethod
from jobs.storage.open import ObjectStore
from models.assess.prompt_filter import PromptTerms
from models.provenance.sign_file import FileSigner
from models.watermark.tiled.payload import Payload, installation_number
from worker.content_safety_requests import ContentSafetyRequests
from worker.health.retry_while_service_is_unavailable import ServiceRetry
from worker.imaging.input_cache import InputImageCache
from worker.item import PipelineItem
from worker.lane_prompt_terms import LanePromptTerms
from worker.model_cache.cache import ModelCache
from worker.model_cache.lane_models import LaneModels


class Place(StrEnum):
    """Where a stage runs."""

    DEVICE = "device"
    """In the thread that renders: device batches wait for it."""
    BACKGROUND = "background"
    """In background threads while the next images are rendered, or in the thread that renders if a later stage does."""


@dataclass(frozen=True)
class StageContext:
    """What the stages of a lane session work with.

    `check_stop` is called between the steps of a device batch, with the step's number, and raises InterruptedRender
    when the worker is to stop.
    """

    lane: Lane
    lane_models: LaneModels
    model_cache: ModelCache
    settings: Settings
    store: ObjectStore
    service_retry: ServiceRetry
    input_images: InputImageCache
    check_stop: Callable[[int], None]
    installation: UUID
    """Marks and manifests name it; the nil UUID where there are none."""
    signer: FileSigner | None = None
    """Signs files; None: they aren't signed."""
    content_safety: ContentSafetyRequests | None = None
    """The service that rates images and prompts; None where the settings name none."""
    prompt_terms: LanePromptTerms = field(default_factory=lambda: LanePromptTerms(PromptTerms({})))
    """The terms that the lane's prompts must not hold."""
    model_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by a stage while it uses a model that isn't thread-safe."""

    @property
    def watermark_text(self) -> str:
        """The payload of the invisible mark: the batch's, or that of the settings."""
        return self.lane.policy.watermark_text or self.settings.watermark

    @property
    def mark_key(self) -> MarkKey:
        """The key of tiled marks."""
        return self.settings.mark_key

    def mark_method(self, width: int, height: int) -> WatermarkMethod:
        """Return how a picture of this size is marked: by a text where the batch has its own, or it is small."""
        is_fit = width * height >= LEAST_TILED_SIDE**2 and self.lane.policy.watermark_text is None
        return WatermarkMethod.TILED if self.settings.has_tiled_marks and is_fit else self.text_mark_method

    @property
    def text_mark_method(self) -> WatermarkMethod:
        """How texts are embedded."""
        is_other = self.settings.watermark_method is WatermarkMethod.DWT_DCT
        return WatermarkMethod.DWT_DCT if is_other else WatermarkMethod.DWT_DCT_SVD

    def mark_payload(self, job: Job) -> Payload:
        """Return what the tiled mark of a job's image says."""
        return Payload(self.mark_key.number, installation_number(self.installation), job.id)


class Stage(ABC):
    """One step of the pipeline; add a subclass to `worker.pipeline.PIPELINE`. Background stages are thread-safe."""

    name: ClassVar[str]
    """Name of the stage in the timings and annotations of image rows; its file has the same name."""
    place: ClassVar[Place]
    switched_on_by: ClassVar[str] = "always"
    """What decides whether a lane has the stage, in words."""
    is_one_at_a_time: ClassVar[bool] = False
    """Whether items are passed to the stage one by one: for costly stages that gain nothing from batches."""
    uses_model: ClassVar[bool] = False
    """Whether the stage may run in one thread at a time only."""

    def __init__(self, context: StageContext) -> None:
        self.context = context

    @classmethod
    def is_on(cls, context: StageContext) -> bool:  # noqa: ARG003 - for subclasses
        """Return whether the lane has this stage."""
        return True

    @abstractmethod
    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with this stage's results; those that end here are returned as ended.

        An exception is the fault of one of the items, unless `worker.health.error_classification` says otherwise.
        """


class Renderer(Protocol):
    """What makes the images of a lane: items are added while there is room, and finished step by step."""

    @property
    def is_empty(self) -> bool:
        """Whether no item is in progress."""

    @property
    def is_denoising(self) -> bool:
        """Whether any item has steps left; else the last images are being decoded, which no stop interrupts."""

    def has_room(self) -> bool:
        """Return whether a further item could begin at the next step."""

    def add(self, item: PipelineItem) -> None:
        """Take an item."""

    def step(self) -> list[PipelineItem]:
        """Run one step; return the items that are finished or ended."""

    def close(self) -> None:
        """Drop what is in progress."""


class ImageStage(Stage):
    """A stage in which items get their pixels; a lane has one."""

    @abstractmethod
    def renderer(self) -> Renderer:
        """Return what renders the lane's items."""
