"""Finds images that a lane session can copy instead of rendering them."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from jobs.images.find_images_of_same_inputs import ReusableImage, images_of_same_inputs
from jobs.job_dataclasses import Job, JobId, Lane
from jobs.settings import Settings
from jobs.states import Mode
from worker.item import InputFiles, PipelineItem
from worker.reuse.inputs_digest import InputsDigest

log = logging.getLogger(__name__)


@dataclass
class UnusableImages:
    """Images whose files this worker couldn't copy: their jobs are rendered. Thread-safe."""

    images: set[int] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    """Outputs that can't be read here at all."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_image(self, image: ReusableImage, reason: str) -> None:
        """Note that the file of an image is missing or damaged."""
        with self.lock:
            self.images.add(image.id)
        log.warning("image %d can't be reused: %s", image.id, reason)

    def add_output(self, image: ReusableImage, reason: str) -> None:
        """Note that the output of an image can't be read on this host."""
        with self.lock:
            is_new = image.output not in self.outputs
            self.outputs.add(image.output)
        if is_new:
            log.warning("no image in %s is reused here: %s", image.output, reason)

    def known(self) -> tuple[list[int], list[str]]:
        """Return the images and the outputs."""
        with self.lock:
            return list(self.images), list(self.outputs)


class ReusableImages:
    """Looks up images of the same inputs as the jobs of one lane.

    Jobs without input images are looked up as they are claimed, all of a claim at once; others when their input images
    have been opened.
    """

    def __init__(
        self, engine: Engine, settings: Settings, lane: Lane, digest: InputsDigest, unusable: UnusableImages
    ) -> None:
        self._engine, self._digest, self._unusable = engine, digest, unusable
        self._is_on = settings.reuse and lane.policy.reuse
        self._has_files = lane.mode != Mode.TEXT2IMAGE
        self._found: dict[JobId, ReusableImage] = {}

    def look_up(self, jobs: Sequence[Job]) -> None:
        """Look up the images of claimed jobs."""
        if self._is_on and not self._has_files:
            self._look_up({job.id: self._digest.of_job(job, InputFiles()) for job in jobs})

    def of(self, item: PipelineItem) -> ReusableImage | None:
        """Return the image that can be copied for this item; None if it has to be rendered."""
        if self._is_on and self._has_files:
            self._look_up({item.job.id: self._digest.of_job(item.job, item.input_files)})
        return self._found.pop(item.job.id, None)

    def _look_up(self, wanted: dict[JobId, str]) -> None:
        images, outputs = self._unusable.known()
        found = images_of_same_inputs(
            self._engine, set(wanted.values()), except_images=images, except_outputs=outputs
        )
        self._found |= {job: found[digest] for job, digest in wanted.items() if digest in found}
