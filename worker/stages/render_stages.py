"""The stages up to an image: prompt filter, input images, generation, upscaling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.job_types import Job, Lane
from jobs.states import ErrorKind, Mode, SafetyAction
from worker.bisect import Stage
from worker.imaging.input_cache import Pictures
from worker.imaging.read_input import PictureAwayError, PictureError
from worker.item import Inputs, PipelineItem
from worker.model_cache.cache import ModelCache
from worker.model_cache.lane_models import LaneModels
from worker.stages.assess import AssessStages, is_withheld
from worker.stages.oom_backoff import DeviceBatches
from worker.stages.upscale import Enlarging, stretched

if TYPE_CHECKING:
    from models.diffusion.requests import ImageRequest
    from models.diffusion.token_counter import TokenCounter


@dataclass(frozen=True)
class RenderStages:
    """The state shared by the stages of one lane session; `on_step` is called between steps and may raise to stop."""

    model_cache: ModelCache
    lane_models: LaneModels
    lane: Lane
    pictures: Pictures
    judging: AssessStages
    on_step: Callable[[int], None]

    def before_drawing(self) -> list[tuple[str, Stage]]:
        """Return the stages that run before generation."""
        given: list[tuple[str, Stage]] = [("pictures", self.open_pictures)]
        return [("prompt", self.check_prompts), *(given if self.lane.mode != Mode.TEXT2IMAGE else [])]

    def after_drawing(self) -> list[tuple[str, Stage]]:
        """Return the stages that run on the device after generation.

        An image that is to be upscaled is assessed first; others are assessed in the background.
        """
        return [*self.judging.stages(), ("upscale", self.upscale)] if self.lane.upscales_drawn else []

    def enlarging(self) -> list[tuple[str, Stage]]:
        """Return the stages of a lane that only upscales input images."""
        return [*self.before_drawing(), ("upscale", self.enlarge)]

    def check_prompts(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Count prompt tokens and apply the prompt filter."""
        counter = self.lane_models.tokens
        tokens = counter.count([item.job.prompt for item in items])
        long = _longer({_negative(item) for item in items}, counter)
        counted = [
            replace(
                item,
                prompt_tokens=count,
                prompt_truncated=count > counter.limit or _negative(item) in long,
            )
            for item, count in zip(items, tokens, strict=True)
        ]
        return [self._check_prompt(item) for item in counted]

    def open_pictures(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Open the jobs' input images; an unusable one fails its jobs permanently, unless other hosts may see it."""
        return [self._opened(item) for item in items]

    def generate(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Generate all items in one call, for a few items that must not share a batch with others."""
        diffusion = self.lane_models.diffusion
        assert diffusion is not None
        requests = [image_request(item.job, item.inputs, self.lane) for item in items]
        return DeviceBatches(self.model_cache, self.lane).run(
            items,
            lambda rows: diffusion.render(
                requests,
                rows=rows,
                on_step=self.on_step,
                whole_every=self.lane.deep_cache,
                decoder=self.lane_models.decoder,
                compile_options=self.model_cache.compile_options(self.lane),
            ),
        )

    def enlarge(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Upscale input images, without generation."""
        enlarging = self._enlarging()
        return enlarging.brought(items) if self.lane.width else enlarging.brought_as_they_are(items)

    def upscale(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Upscale to four times the width and height; withheld images are only resized: a model might restore them."""
        drawn = iter(self._enlarging().drawn([item for item in items if not is_withheld(item)]))
        return [stretched(item) if is_withheld(item) else next(drawn) for item in items]

    def _opened(self, item: PipelineItem) -> PipelineItem:
        lane = self.lane
        try:
            inputs = self.pictures.inputs(item.job, (lane.width, lane.height) if lane.width else None)
        except PictureError as error:
            is_away = isinstance(error, PictureAwayError)
            return item.ended(ErrorKind.BAD_INPUT, str(error), is_of_host=is_away)
        return replace(item, inputs=inputs, image_sha256=inputs.image_sha256)

    def _enlarging(self) -> Enlarging:
        return Enlarging(
            self.lane_models, DeviceBatches(self.model_cache, self.lane, "enlarge"), self.on_step
        )

    def _check_prompt(self, item: PipelineItem) -> PipelineItem:
        found = self.lane_models.terms.find(item.job.prompt)
        if found is None:
            return item
        reason = f"prompt holds {found!r}"
        if self.lane.safety == SafetyAction.BLOCK:
            return item.ended(ErrorKind.SAFETY, reason, is_block=True)
        return replace(item, flagged_for=reason)


def image_request(job: Job, inputs: Inputs, lane: Lane) -> "ImageRequest":
    """Convert the job to a request to the lane's model."""
    from models.diffusion.requests import ImageRequest  # noqa: PLC0415 - imports torch, only needed to render

    return ImageRequest(
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        width=lane.width,
        height=lane.height,
        steps=job.steps,
        guidance_scale=job.guidance_scale,
        sampler=job.sampler,
        seed=job.seed,
        image=inputs.image,
        mask=inputs.mask,
        depth=inputs.depth,
        strength=1.0 if job.strength is None else job.strength,
    )


def _negative(item: PipelineItem) -> str:
    """Return the negative prompt, or "" where the guidance scale makes it unused."""
    return item.job.negative_prompt if item.job.guidance_scale > 1 else ""


def _longer(texts: set[str], counter: "TokenCounter") -> set[str]:
    """Return the texts with more tokens than the model reads."""
    given = sorted(texts - {""})
    counts = counter.count(given) if given else []
    return {text for text, count in zip(given, counts, strict=True) if count > counter.limit}
