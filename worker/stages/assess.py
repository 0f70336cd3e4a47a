"""How finished pictures are judged: is one safe, and how well does it fit its prompt?"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jobs.job import Lane
from jobs.states import ErrorKind, SafetyAction, Scoring
from models.errors import ModelError
from worker.bisect import Stage, aside
from worker.item import Frame
from worker.model_cache.lane_models import Kit

if TYPE_CHECKING:
    from models.assess.safety_checker import SafetyScores

log = logging.getLogger(__name__)

_WITHHELD = ("blackened", "blurred")


@dataclass(frozen=True)
class Judging:
    """The stages in which models look at a lane's pictures; any thread may run them, and they take turns."""

    kit: Kit
    lane: Lane
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def stages(self) -> list[tuple[str, Stage]]:
        """In order; the second where there is a CLIP."""
        score: list[tuple[str, Stage]] = [("clip_score", self._in_turn(self.score))]
        return [("safety", self._in_turn(self.check_safety)), *(score if self.kit.clip else [])]

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

    def _in_turn(self, stage: Stage) -> Stage:
        """The stage, without the wait for others in its time."""

        def in_turn(frames: Sequence[Frame]) -> list[Frame]:
            with aside():
                self._turn.acquire()
            try:
                return stage(frames)
            finally:
                self._turn.release()

        return in_turn

    def _scores(self, frames: Sequence[Frame]) -> Iterator[dict[str, object]]:
        clip = self.kit.clip
        assert clip is not None
        scores = clip.scorer.score(
            [frame.picture for frame in frames], [frame.job.prompt for frame in frames]
        )
        return iter([{"clip_score": round(score, 4), "clip_model": clip.model} for score in scores])

    def _act(self, frame: Frame, reason: str | None) -> Frame:
        from models.assess.safety_checker import blacken, blur  # noqa: PLC0415

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


def is_withheld(frame: Frame) -> bool:
    """Whether the picture isn't shown as it was drawn."""
    return frame.safety_verdict in _WITHHELD


def _has_a_score(frame: Frame) -> bool:
    return not is_withheld(frame) and bool(frame.job.prompt)


def _finding(score: "SafetyScores") -> str | None:
    if not score.flagged:
        return None
    above = (f"{number} at {value:+.3f}" for number, value in enumerate(score.concepts) if value > 0)
    return f"safety checker: concept {', '.join(above)}"
