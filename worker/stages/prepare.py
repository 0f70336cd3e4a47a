"""The stages that end in a picture: prompt check, pictures, generate, upscale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.job import Job, Lane
from jobs.states import ErrorKind, Mode, SafetyAction
from worker.bisect import Stage
from worker.imaging.input_cache import Pictures
from worker.imaging.read_input import PictureAwayError, PictureError
from worker.item import Frame, Inputs
from worker.model_cache.cache import Studio
from worker.model_cache.lane_models import Kit
from worker.stages.assess import Judging, is_withheld
from worker.stages.oom_backoff import DeviceBatches
from worker.stages.upscale import Enlarging, stretched

if TYPE_CHECKING:
    from models.diffusion.requests import ImageRequest
    from models.diffusion.token_counter import TokenCounter


@dataclass(frozen=True)
class Making:
    """What the stages of one shift share; `on_step` is called between two steps and may raise to stop."""

    studio: Studio
    kit: Kit
    lane: Lane
    pictures: Pictures
    judging: Judging
    on_step: Callable[[int], None]

    def before_drawing(self) -> list[tuple[str, Stage]]:
        """What a job needs before a model may have it."""
        given: list[tuple[str, Stage]] = [("pictures", self.open_pictures)]
        return [("prompt", self.check_prompts), *(given if self.lane.mode != Mode.TEXT2IMAGE else [])]

    def after_drawing(self) -> list[tuple[str, Stage]]:
        """What is done with a picture that was drawn before the next ones are waited for.

        One that is to be upscaled is judged first; others are when they are finished.
        """
        return [*self.judging.stages(), ("upscale", self.upscale)] if self.lane.upscales_drawn else []

    def enlarging(self) -> list[tuple[str, Stage]]:
        """What is done in a lane whose pictures are brought and only enlarged."""
        return [*self.before_drawing(), ("upscale", self.enlarge)]

    def check_prompts(self, frames: Sequence[Frame]) -> list[Frame]:
        """Count tokens; find terms that no prompt may hold."""
        counter = self.kit.tokens
        tokens = counter.count([frame.job.prompt for frame in frames])
        long = _longer({_negative(frame) for frame in frames}, counter)
        counted = [
            replace(
                frame,
                prompt_tokens=count,
                prompt_truncated=count > counter.limit or _negative(frame) in long,
            )
            for frame, count in zip(frames, tokens, strict=True)
        ]
        return [self._check_prompt(frame) for frame in counted]

    def open_pictures(self, frames: Sequence[Frame]) -> list[Frame]:
        """What the jobs start from; one that can't be used ends its own jobs for good, unless others may see it."""
        return [self._opened(frame) for frame in frames]

    def generate(self, frames: Sequence[Frame]) -> list[Frame]:
        """Pixels for every frame, all at once: for a few that shall not be drawn in other company."""
        diffusion = self.kit.diffusion
        assert diffusion is not None
        requests = [image_request(frame.job, frame.inputs, self.lane) for frame in frames]
        return DeviceBatches(self.studio, self.lane).run(
            frames,
            lambda rows: diffusion.render(
                requests,
                rows=rows,
                on_step=self.on_step,
                whole_every=self.lane.deep_cache,
                decoder=self.kit.decoder,
                speedup=self.studio.speedup(self.lane),
            ),
        )

    def enlarge(self, frames: Sequence[Frame]) -> list[Frame]:
        """Pixels for every frame by the upscaler alone."""
        enlarging = self._enlarging()
        return enlarging.brought(frames) if self.lane.width else enlarging.brought_as_they_are(frames)

    def upscale(self, frames: Sequence[Frame]) -> list[Frame]:
        """Four times the width and height; what was withheld is only stretched, lest the model draws it anew."""
        drawn = iter(self._enlarging().drawn([frame for frame in frames if not is_withheld(frame)]))
        return [stretched(frame) if is_withheld(frame) else next(drawn) for frame in frames]

    def _opened(self, frame: Frame) -> Frame:
        lane = self.lane
        try:
            inputs = self.pictures.inputs(frame.job, (lane.width, lane.height) if lane.width else None)
        except PictureError as error:
            is_away = isinstance(error, PictureAwayError)
            return frame.ended(ErrorKind.BAD_INPUT, str(error), is_of_host=is_away)
        return replace(frame, inputs=inputs, image_sha256=inputs.image_sha256)

    def _enlarging(self) -> Enlarging:
        return Enlarging(self.kit, DeviceBatches(self.studio, self.lane, "enlarge"), self.on_step)

    def _check_prompt(self, frame: Frame) -> Frame:
        found = self.kit.terms.find(frame.job.prompt)
        if found is None:
            return frame
        reason = f"prompt holds {found!r}"
        if self.lane.safety == SafetyAction.BLOCK:
            return frame.ended(ErrorKind.SAFETY, reason, is_block=True)
        return replace(frame, flagged_for=reason)


def image_request(job: Job, inputs: Inputs, lane: Lane) -> "ImageRequest":
    """The job as the lane's model takes it."""
    from models.diffusion.requests import ImageRequest  # noqa: PLC0415 - brings torch, which only this child has

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


def _negative(frame: Frame) -> str:
    """The negative prompt, where it is read."""
    return frame.job.negative_prompt if frame.job.guidance_scale > 1 else ""


def _longer(texts: set[str], counter: "TokenCounter") -> set[str]:
    """Those with more tokens than the model reads."""
    given = sorted(texts - {""})
    counts = counter.count(given) if given else []
    return {text for text, count in zip(given, counts, strict=True) if count > counter.limit}
