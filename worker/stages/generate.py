"""Generate: render images with the lane's diffusion model, whose device batch is kept full."""

import time
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from jobs.errors import LeaseLostError
from jobs.monitoring import metrics
from jobs.states import Mode
from models.errors import InterruptedRender, OutOfMemoryError
from worker.bisect import ended, isolated
from worker.health.error_classification import HostFaultError
from worker.item import PipelineItem
from worker.rendering.oom_backoff import DeviceBatches, with_rendered_image
from worker.rendering.requests_from_jobs import image_request
from worker.stage import ImageStage, Place, StageContext

if TYPE_CHECKING:
    from models.diffusion.requests import ImageRequest
    from models.engine.engine import Engine
    from models.families.family import ModelFamily


class Generate(ImageStage):
    """Renders images by continuous batching, in a device batch that is kept full.

    `add` items while it `has_room`, and `step` until it `is_empty`. When memory runs out, the items in progress begin
    again in a smaller batch. On any other error they are rendered apart from others and bisected, so that only the
    items at fault are returned as ended.
    """

    name = "generate"
    place = Place.DEVICE
    switched_on_by = "models that generate images"

    def __init__(self, context: StageContext) -> None:
        super().__init__(context)
        self._in_progress: dict[Hashable, PipelineItem] = {}
        self._refused: list[PipelineItem] = []
        self._elapsed_s = 0.0
        self._engine: Engine[ImageRequest] | None = None
        self._no_engine: BaseException | None = None
        self._open()

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the lane generates images, and doesn't only upscale input images."""
        return context.lane.mode != Mode.UPSCALE

    def renderer(self) -> "Generate":
        """Return the stage itself."""
        return self

    @property
    def is_empty(self) -> bool:
        """Whether no item is in progress."""
        return not self._in_progress and not self._refused

    @property
    def is_denoising(self) -> bool:
        """Whether any item has steps left."""
        return self._engine is None or self._engine.is_denoising

    def has_room(self) -> bool:
        """Return whether a further item could begin at the next step."""
        return not self._in_progress if self._engine is None else self._engine.has_room()

    def add(self, item: PipelineItem) -> None:
        """Take an item; one that the model can't render is returned as ended by the next step."""
        self._in_progress[item.job.id] = item
        if self._engine is None:
            return
        try:
            self._engine.add(item.job.id, image_request(item.job, item.inputs, self.context.lane))
        except ValueError as error:
            self._refused.append(ended(self._in_progress.pop(item.job.id), error))

    def step(self) -> list[PipelineItem]:
        """Run one step of the model; return the items that are finished or ended (at most steps there are none)."""
        started = time.perf_counter()
        try:
            done = self._rendered()
        except (InterruptedRender, LeaseLostError, HostFaultError):
            raise
        except (Exception, SystemExit) as error:
            done = self._recovered(error)
        refused, self._refused = self._refused, []
        self._elapsed_s += time.perf_counter() - started
        if not done:
            return refused
        elapsed_s, self._elapsed_s = self._elapsed_s, 0.0
        for _ in done:
            metrics.STAGE_SECONDS.observe(elapsed_s / len(done), self.name)
        return [*refused, *(item.spent(self.name, elapsed_s / len(done)) for item in done)]

    def close(self) -> None:
        """Drop what is in progress."""
        self._in_progress.clear()
        if self._engine is not None:
            self._engine.close()

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Render all items in one call, for a few items that must not share a batch with others."""
        context = self.context
        requests = [image_request(item.job, item.inputs, context.lane) for item in items]
        return DeviceBatches(context.model_cache, context.lane).run(
            items,
            lambda rows: self._model.render(
                requests,
                rows=rows,
                on_step=context.check_stop,
                cache_interval=context.lane.policy.deep_cache,
                decoder=context.lane_models.decoder,
                compile_options=context.model_cache.compile_options(context.lane),
            ),
        )

    def _rendered(self) -> list[PipelineItem]:
        if self._engine is None:
            assert self._no_engine is not None
            raise self._no_engine
        return [
            with_rendered_image(self._in_progress.pop(rendered.key), rendered.image, self._rows)
            for rendered in self._engine.step()
        ]

    def _recovered(self, error: BaseException) -> list[PipelineItem]:
        """Begin the items in progress again after memory ran out, or else find out which of them is at fault."""
        items = list(self._in_progress.values())
        if not items:
            raise error
        self._in_progress.clear()
        context = self.context
        if isinstance(error, OutOfMemoryError) and context.model_cache.lower_rows(context.lane):
            done = list[PipelineItem]()
        else:
            done, items = isolated(self.run, items), []
        self._open()
        for item in items:
            self.add(item)
        return done

    def _open(self) -> None:
        """Open an engine with as many rows as there is memory for; an error is kept for the next step to raise."""
        lane, model_cache = self.context.lane, self.context.model_cache
        self._engine = None
        while True:
            self._rows = model_cache.rows(lane)
            try:
                self._engine = self._model.engine(
                    self._model.latent_shape(lane.width, lane.height),
                    rows=self._rows,
                    cache_interval=lane.policy.deep_cache,
                    decoder=self.context.lane_models.decoder,
                    compile_options=model_cache.compile_options(lane),
                )
            except InterruptedRender:
                raise
            except (Exception, SystemExit) as error:
                if isinstance(error, OutOfMemoryError) and model_cache.lower_rows(lane):
                    continue
                self._no_engine = error
            return

    @property
    def _model(self) -> "ModelFamily[ImageRequest]":
        assert self.context.lane_models.diffusion is not None
        return self.context.lane_models.diffusion
