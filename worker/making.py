"""The stages on the device: prompt check, pictures, generate, safety, CLIP score, upscale."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.job import Job, Lane
from jobs.states import ErrorKind, Mode, SafetyAction, Scoring
from models.errors import ModelError
from worker.device_batches import DeviceBatches
from worker.enlarging import Enlarging, stretched
from worker.frame import Frame, Inputs
from worker.isolate import Stage
from worker.kit import Kit
from worker.opening import PictureError
from worker.pictures import Pictures
from worker.studio import Studio

if TYPE_CHECKING:
    from models.safety import SafetyScores
    from models.stable_diffusion import ImageRequest

log = logging.getLogger(__name__)

_WITHHELD = ("blackened", "blurred")


@dataclass(frozen=True)
class Making:
    """What the stages of one shift share; `on_step` is called between two steps and may raise to stop."""

    studio: Studio
    kit: Kit
    lane: Lane
    pictures: Pictures
    on_step: Callable[[int], None]

    def before_drawing(self) -> list[tuple[str, Stage]]:
        """What a job needs before a model may have it."""
        given: list[tuple[str, Stage]] = [("pictures", self.open_pictures)]
        return [("prompt", self.check_prompts), *(given if self.lane.mode != Mode.TEXT2IMAGE else [])]

    def after_drawing(self) -> list[tuple[str, Stage]]:
        """What is done with a picture on the device, in order."""
        score: list[tuple[str, Stage]] = [("clip_score", self.score)]
        upscale: list[tuple[str, Stage]] = [("upscale", self.upscale)]
        is_chain = self.lane.mode != Mode.UPSCALE and self.lane.upscale
        return [
            ("safety", self.check_safety),
            *(score if self.kit.clip else []),
            *(upscale if is_chain else []),
        ]

    def enlarging(self) -> list[tuple[str, Stage]]:
        """All that is done in a lane whose pictures are brought and only enlarged."""
        return [*self.before_drawing(), ("upscale", self.enlarge), *self.after_drawing()]

    def check_prompts(self, frames: Sequence[Frame]) -> list[Frame]:
        """Count tokens; find terms that no prompt may hold."""
        tokens = self.kit.tokens.count([frame.job.prompt for frame in frames])
        counted = [
            replace(frame, prompt_tokens=count, prompt_truncated=count > self.kit.tokens.limit)
            for frame, count in zip(frames, tokens, strict=True)
        ]
        return [self._check_prompt(frame) for frame in counted]

    def open_pictures(self, frames: Sequence[Frame]) -> list[Frame]:
        """What the jobs start from; one that can't be used ends its own jobs for good."""
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

    def check_safety(self, frames: Sequence[Frame]) -> list[Frame]:
        """Score every picture and act on what is flagged; the checker failing is the job failing."""
        scores = self.kit.safety.score([frame.picture for frame in frames])
        return [
            self._act(
                replace(
                    frame, safety_scores={"concepts": score.concepts, "special_care": score.special_care}
                ),
                frame.flagged_for or _finding(score),
            )
            for frame, score in zip(frames, scores, strict=True)
        ]

    def score(self, frames: Sequence[Frame]) -> list[Frame]:
        """How well pictures fit their prompts, where there is one; a CLIP that fails fails no job unasked."""
        shown = [frame for frame in frames if _has_a_score(frame)]
        try:
            scores = self._scores(shown)
        except ModelError as error:
            if self.lane.clip_score == Scoring.ON:
                raise
            log.warning("no CLIP score for %d pictures: %s", len(shown), error)
            return list(frames)
        return [replace(frame, quality=next(scores)) if _has_a_score(frame) else frame for frame in frames]

    def upscale(self, frames: Sequence[Frame]) -> list[Frame]:
        """Four times the width and height; what was withheld is only stretched, lest the model draws it anew."""
        shown = [frame for frame in frames if frame.safety_verdict not in _WITHHELD]
        drawn = iter(self._enlarging().drawn(shown))
        return [stretched(frame) if frame.safety_verdict in _WITHHELD else next(drawn) for frame in frames]

    def _opened(self, frame: Frame) -> Frame:
        lane = self.lane
        try:
            inputs = self.pictures.inputs(frame.job, (lane.width, lane.height) if lane.width else None)
        except PictureError as error:
            return frame.ended(ErrorKind.BAD_INPUT, str(error))
        return replace(frame, inputs=inputs, image_sha256=inputs.image_sha256)

    def _scores(self, frames: Sequence[Frame]) -> Iterator[dict[str, object]]:
        clip = self.kit.clip
        assert clip is not None
        scores = clip.scorer.score(
            [frame.picture for frame in frames], [frame.job.prompt for frame in frames]
        )
        return iter([{"clip_score": round(score, 4), "clip_model": clip.model} for score in scores])

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

    def _act(self, frame: Frame, reason: str | None) -> Frame:
        from models.safety import blacken, blur  # noqa: PLC0415

        if reason is None:
            return frame
        frame = replace(frame, flagged_for=reason)
        match SafetyAction(self.lane.safety):
            case SafetyAction.BLOCK:
                return frame.ended(ErrorKind.SAFETY, reason, is_block=True)
            case SafetyAction.FLAG:
                return replace(frame, safety_verdict="flagged")
            case SafetyAction.BLACKEN:
                return replace(frame, safety_verdict="blackened", pixels=blacken(frame.picture))
            case SafetyAction.BLUR:
                return replace(frame, safety_verdict="blurred", pixels=blur(frame.picture))


def _has_a_score(frame: Frame) -> bool:
    return frame.safety_verdict not in _WITHHELD and bool(frame.job.prompt)


def image_request(job: Job, inputs: Inputs, lane: Lane) -> "ImageRequest":
    """The job as the lane's model takes it."""
    from models.stable_diffusion import ImageRequest  # noqa: PLC0415 - brings torch, which only this child has

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


def _finding(score: "SafetyScores") -> str | None:
    if not score.flagged:
        return None
    above = (f"{number} at {value:+.3f}" for number, value in enumerate(score.concepts) if value > 0)
    return f"safety checker: concept {', '.join(above)}"
