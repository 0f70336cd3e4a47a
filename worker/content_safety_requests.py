"""Requests to the content-safety service: several at once, and those of prompts begun when their jobs are claimed."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaitingError
from typing import Generic, TypeVar

from jobs.content_safety.client import ContentSafetyService, Severities
from jobs.errors import ContentRefusedError, ContentSafetyError
from jobs.job_dataclasses import Lane
from jobs.policy.safety_label_thresholds import OF_IMAGES, OF_PROMPTS

T = TypeVar("T")
Rating = Severities | ContentRefusedError | ContentSafetyError

AT_ONCE = 8
"""Requests of images, and so many of prompts."""
ALONE_S = 60.0
"""So long the service may fail at one image or prompt while it rates a harmless one, until that is refused."""
_KEPT_PROMPTS = 10_000
_LOOK_S = 0.2


class ContentSafetyRequests:
    """The service as a worker process uses it. Thread-safe."""

    def __init__(self, service: ContentSafetyService) -> None:
        self._service = service
        self._for_images, self._for_prompts = (
            ThreadPoolExecutor(AT_ONCE, thread_name_prefix=f"rate-{kind}") for kind in ("images", "prompts")
        )
        self._lock = threading.Lock()
        self._prompts: OrderedDict[str, Future[Severities]] = OrderedDict()

    @property
    def url(self) -> str:
        """The address of the service."""
        return self._service.url

    def check(self, lane: Lane) -> None:
        """Raise ContentSafetyError unless the service rates now what the lane has rated."""
        self._service.check(images=rates_images(lane), prompts=rates_prompts(lane))

    def begin_prompts(self, prompts: Iterable[str]) -> None:
        """Ask for prompts, without waiting; the last 10,000 are known, but for those whose request has failed."""
        for prompt in prompts:
            self._asked(prompt)

    def prompt(self, prompt: str, look: Callable[[], object]) -> "Ratings[str]":
        """Return the rating of a prompt; while it is waited for, `look` is called, and may raise."""
        return Ratings(
            [prompt],
            lambda prompts: [self._awaited(prompt, look) for prompt in prompts],
            lambda: self._service.check(images=False, prompts=True),
        )

    def images(self, files: Sequence[bytes]) -> "Ratings[bytes]":
        """Return the ratings of image files."""
        return Ratings(
            files,
            lambda files: list(self._for_images.map(self._rated_image, files)),
            lambda: self._service.check(images=True, prompts=False),
        )

    def close(self) -> None:
        """Wait for the requests that were begun."""
        for threads in (self._for_images, self._for_prompts):
            threads.shutdown(cancel_futures=True)

    def _rated_image(self, file: bytes) -> Rating:
        try:
            return self._service.rate_image(file)
        except (ContentRefusedError, ContentSafetyError) as error:
            return error

    def _awaited(self, prompt: str, look: Callable[[], object]) -> Rating:
        asked = self._asked(prompt)
        while True:
            try:
                return asked.result(_LOOK_S)
            except StillWaitingError:
                look()
            except (ContentRefusedError, ContentSafetyError) as error:
                return error

    def _asked(self, prompt: str) -> Future[Severities]:
        with self._lock:
            asked = self._prompts.get(prompt)
            if asked is None or (asked.done() and asked.exception() is not None):
                asked = self._prompts[prompt] = self._for_prompts.submit(self._service.rate_prompt, prompt)
                while len(self._prompts) > _KEPT_PROMPTS:
                    self._prompts.popitem(last=False)
            self._prompts.move_to_end(prompt)
            return asked


class Ratings(Generic[T]):
    """Ratings of some images or prompts; what was rated isn't asked for again.

    If the service fails at one of them for long, and rates a harmless one all the while, that one is at fault.
    """

    def __init__(
        self, given: Sequence[T], rate: Callable[[Sequence[T]], list[Rating]], probe: Callable[[], None]
    ) -> None:
        self._given, self._rate, self._probe = given, rate, probe
        self._found: dict[int, Severities | ContentRefusedError] = {}
        self._alone_since: dict[int, float] = {}

    def get(self) -> list[Severities | ContentRefusedError]:
        """Return all ratings, and refusals; raises ContentSafetyError while one can't be had."""
        missing = [number for number in range(len(self._given)) if number not in self._found]
        failures: dict[int, ContentSafetyError] = {}
        for number, found in zip(missing, self._rate([self._given[n] for n in missing]), strict=True):
            if isinstance(found, ContentSafetyError):
                failures[number] = found
            else:
                self._found[number] = found
        if failures:
            self._blame(failures)
        return [self._found[number] for number in range(len(self._given))]

    def _blame(self, failures: dict[int, ContentSafetyError]) -> None:
        """Refuse those at which the service fails alone for long; raises ContentSafetyError if that isn't so of one."""
        before, self._alone_since = self._alone_since, {}
        self._probe()
        now = time.monotonic()
        self._alone_since = {number: before.get(number, now) for number in failures}
        for number, error in failures.items():
            if now - self._alone_since[number] < ALONE_S:
                raise error
            self._found[number] = ContentRefusedError(f"{error}, and does so at this one alone")


def rates_images(lane: Lane) -> bool:
    """Whether the lane's images are rated by the service."""
    return OF_IMAGES in lane.policy.checker_thresholds.labels


def rates_prompts(lane: Lane) -> bool:
    """Whether the lane's prompts are rated by the service."""
    return OF_PROMPTS in lane.policy.checker_thresholds.labels


def uses_service(lane: Lane) -> bool:
    """Whether the lane needs the service."""
    return rates_images(lane) or rates_prompts(lane)
