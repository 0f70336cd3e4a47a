"""The stages on the device: prompt check, generate, safety, upscale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.job import Lane
from jobs.states import ErrorKind, SafetyAction
from models.errors import OutOfMemoryError
from models.picture import Picture
from worker.frame import Frame, Pixels
from worker.isolate import Stage
from worker.studio import Kit, Studio

if TYPE_CHECKING:
    from models.safety import SafetyScores

_DEFECTS = {
    "nan": (ErrorKind.NOT_FINITE, "the model gave values that are not numbers"),
    "black": (ErrorKind.BLACK, "the model gave a black picture"),
}
_WITHHELD = ("blackened", "blurred")


@dataclass(frozen=True)
class Making:
    """What the stages of one shift share; `on_step` is called between two steps and may raise to stop."""

    studio: Studio
    kit: Kit
    lane: Lane
    on_step: Callable[[int], None]

    def stages(self) -> list[tuple[str, Stage]]:
        """The pipeline's first half, in order."""
        upscale: list[tuple[str, Stage]] = [("upscale", self.upscale)] if self.lane.upscale else []
        return [
            ("prompt", self.check_prompts),
            ("generate", self.generate),
            ("safety", self.check_safety),
            *upscale,
        ]

    def check_prompts(self, frames: Sequence[Frame]) -> list[Frame]:
        """Count tokens; find terms that no prompt may hold."""
        tokens = self.kit.tokens.count([frame.job.prompt for frame in frames])
        counted = [
            replace(frame, prompt_tokens=count, prompt_truncated=count > self.kit.tokens.limit)
            for frame, count in zip(frames, tokens, strict=True)
        ]
        return [self._check_prompt(frame) for frame in counted]

    def generate(self, frames: Sequence[Frame]) -> list[Frame]:
        """Pixels for every frame; all frames share steps, guidance and sampler."""
        from models.stable_diffusion import ImageRequest  # noqa: PLC0415 - brings torch, which only this child has

        lane = self.lane
        requests = [
            ImageRequest(
                prompt=job.prompt,
                negative_prompt=job.negative_prompt,
                width=lane.width,
                height=lane.height,
                steps=job.steps,
                guidance_scale=job.guidance_scale,
                sampler=job.sampler,
                seed=job.seed,
            )
            for job in (frame.job for frame in frames)
        ]
        pictures = self._within_memory(
            lambda rows: self.kit.text2image.render(requests, rows=rows, on_step=self.on_step)
        )
        return self._with_pictures(frames, pictures)

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

    def upscale(self, frames: Sequence[Frame]) -> list[Frame]:
        """Four times the width and height; what was withheld is only stretched, lest the model draws it anew."""
        drawn = iter(self._upscaled([frame for frame in frames if frame.safety_verdict not in _WITHHELD]))
        return [stretched(frame) if frame.safety_verdict in _WITHHELD else next(drawn) for frame in frames]

    def _upscaled(self, frames: Sequence[Frame]) -> list[Frame]:
        from models.upscale import UpscaleRequest  # noqa: PLC0415

        upscaler, checkpoint = self.kit.upscaler, self.kit.upscaler_checkpoint
        assert upscaler is not None
        assert checkpoint is not None
        card = checkpoint.card
        requests = [
            UpscaleRequest(
                pixels=frame.picture,
                prompt=frame.job.prompt,
                negative_prompt=frame.job.negative_prompt,
                noise_level=20 if frame.job.noise_level is None else frame.job.noise_level,
                steps=card.steps,
                guidance_scale=card.guidance_scale,
                sampler=card.sampler,
                seed=frame.job.seed,
            )
            for frame in frames
        ]
        pictures = self._within_memory(
            lambda rows: upscaler.upscale(requests, rows=rows, on_step=self.on_step)
        )
        return self._with_pictures(frames, pictures)

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

    def _within_memory(self, render: Callable[[int], list[Picture]]) -> list[Picture]:
        while True:
            try:
                return render(self.studio.rows(self.lane))
            except OutOfMemoryError:
                if not self.studio.lower_rows(self.lane):
                    raise

    def _with_pictures(self, frames: Sequence[Frame], pictures: Sequence[Picture]) -> list[Frame]:
        rows = self.studio.rows(self.lane)
        return [
            _with_picture(replace(frame, batch_rows=rows), picture.pixels, picture.defect)
            for frame, picture in zip(frames, pictures, strict=True)
        ]


def stretched(frame: Frame) -> Frame:
    """The frame with each pixel four times as wide and high."""
    return replace(frame, pixels=frame.picture.repeat(4, axis=0).repeat(4, axis=1))


def _finding(score: "SafetyScores") -> str | None:
    if not score.flagged:
        return None
    above = (f"{number} at {value:+.3f}" for number, value in enumerate(score.concepts) if value > 0)
    return f"safety checker: concept {', '.join(above)}"


def _with_picture(frame: Frame, pixels: Pixels, defect: str | None) -> Frame:
    return replace(frame, pixels=pixels) if defect is None else frame.ended(*_DEFECTS[defect])
