"""Requests to the content-safety service: several at once, and those of prompts begun when their jobs are claimed."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from jobs.job_dataclasses import Lane
from jobs.policy.label_thresholds import OF_IMAGES, OF_PROMPTS, SERVICE_CHECKERS
from models.assess.content_safety import ContentSafetyService

Pixels = npt.NDArray[np.uint8]
Severities = dict[str, float]

AT_ONCE = 8
_KEPT_PROMPTS = 10_000


class ContentSafetyRequests:
    """The service as a worker process uses it. Thread-safe."""

    def __init__(self, service: ContentSafetyService) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="content-safety")
        self._lock = threading.Lock()
        self._prompts: OrderedDict[str, Future[Severities]] = OrderedDict()

    @property
    def endpoint(self) -> str:
        """The address of the service."""
        return self._service.endpoint

    def check(self) -> None:
        """Raise ContentSafetyError unless the service can be used now."""
        self._service.check()

    def begin_prompts(self, prompts: Iterable[str]) -> None:
        """Ask for prompts, without waiting; the last 10,000 are known, but for those whose request has failed."""
        for prompt in prompts:
            self._asked(prompt)

    def prompt(self, prompt: str) -> Severities:
        """Return a prompt's severities by category. Raises as `ContentSafetyService.rate_prompt` does."""
        return self._asked(prompt).result()

    def images(self, images: Sequence[Pixels]) -> list[Severities]:
        """Return the severities by category of (H, W, 3) uint8 RGB images. Raises as `rate_image` does."""
        return list(self._threads.map(self._service.rate_image, images))

    def close(self) -> None:
        """Wait for the requests that were begun, and close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._service.close()

    def _asked(self, prompt: str) -> Future[Severities]:
        with self._lock:
            asked = self._prompts.get(prompt)
            if asked is None or (asked.done() and asked.exception() is not None):
                asked = self._prompts[prompt] = self._threads.submit(self._service.rate_prompt, prompt)
                while len(self._prompts) > _KEPT_PROMPTS:
                    self._prompts.popitem(last=False)
            self._prompts.move_to_end(prompt)
            return asked


def rates_images(lane: Lane) -> bool:
    """Whether the lane's images are rated by the service."""
    return OF_IMAGES in lane.policy.checker_thresholds.labels


def rates_prompts(lane: Lane) -> bool:
    """Whether the lane's prompts are rated by the service."""
    return OF_PROMPTS in lane.policy.checker_thresholds.labels


def uses_service(lane: Lane) -> bool:
    """Whether the lane needs the service."""
    return any(checker in lane.policy.checker_thresholds.labels for checker in SERVICE_CHECKERS)
