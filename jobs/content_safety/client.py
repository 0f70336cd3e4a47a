"""The client of a content-safety service over HTTP: requests and answers are those of Azure AI Content Safety.

Each request has a time limit and is retried. Nothing that isn't a full answer counts as one: without scores, no image
leaves.
"""

import base64
import json
import math
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from jobs.content_safety.circuit_breaker import CircuitBreaker
from jobs.errors import ContentRefusedError, ContentSafetyError
from jobs.outbound_http.bounded_http_post import Answer, PostError, post_and_read
from jobs.policy.safety_label_thresholds import CATEGORIES

API_VERSION = "2024-09-01"
LONGEST_TEXT = 10_000
"""Characters that the service takes at once; longer prompts are sent in parts."""
ANSWER_S = 20.0
"""From the connection until the end of the answer."""

_LARGEST_ANSWER = 1 << 20
_PAUSES_S = (0.5, 1.0, 2.0)
_BUSY_TRIES, _LONGEST_PAUSE_S = 10, 15.0
_LONGEST_JITTER = 1.25
_TEMPORARY = frozenset({408, 500, 502, 503, 504})
_REFUSALS = frozenset({400, 413, 415, 422})
_SEVEREST = 7
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,40}")
# A grey picture of 64 x 64 pixels.
_PROBE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hn"
    "Pk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2P/wAARCABAAEADASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQID"
    "AAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlq"
    "c3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3"
    "+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEI"
    "FEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImK"
    "kpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwAo"
    "oooAKKKKACiiigAooooAKKKKACiiigAooooAKKKKACiiigAooooAKKKKACiiigAooooAKKKKACiiigAooooA/9k="
)

Severities = dict[str, float]


class ContentSafetyService:
    """Rates images and prompts by category, as severities from 0 (safe) to 7. Thread-safe.

    Images and prompts have a circuit breaker each; requests that the service is too busy for hold back all others.
    """

    def __init__(self, url: str, key: str, pause: Callable[[float], bool]) -> None:
        """`pause` waits so many seconds and returns whether the process is to stop."""
        self.url = url.rstrip("/")
        self._pause = pause
        self._headers = {
            "Ocp-Apim-Subscription-Key": key,
            "Content-Type": "application/json",
            "User-Agent": "nightmill",
        }
        longest_s = ANSWER_S + _BUSY_TRIES * _LONGEST_PAUSE_S
        self._breakers = {kind: CircuitBreaker(longest_s) for kind in ("image", "text")}
        self._lock = threading.Lock()
        self._busy_until = 0.0

    def rate_image(self, file: bytes) -> Severities:
        """Rate an image file: JPEG or PNG, at least 50 and at most 2,048 pixels wide and high, at most 4 MB.

        Raises ContentRefusedError if the service refuses the image, ContentSafetyError if it can't be used at present.
        """
        return self._rate("image", {"image": {"content": base64.b64encode(file).decode()}})

    def rate_prompt(self, prompt: str) -> Severities:
        """Rate a prompt; of a long one, the severest part counts. Raises like `rate_image`."""
        parts = [prompt[start : start + LONGEST_TEXT] for start in range(0, len(prompt), LONGEST_TEXT)]
        rated = [self._rate("text", {"text": part}) for part in parts if part.strip()]
        return {name: max((each[name] for each in rated), default=0.0) for name in CATEGORIES}

    def check(self, *, images: bool, prompts: bool) -> None:
        """Rate a grey image, a harmless prompt or both, to see whether the service can be used.

        They are sent even if the circuit is broken. Raises ContentSafetyError.
        """
        try:
            if prompts:
                self._rate("text", {"text": "a landscape"}, is_probe=True)
            if images:
                self._rate("image", {"image": {"content": base64.b64encode(_PROBE).decode()}}, is_probe=True)
        except ContentRefusedError as error:
            raise ContentSafetyError(str(error), is_lasting=True) from None

    def _rate(self, kind: str, body: dict[str, Any], *, is_probe: bool = False) -> Severities:
        request = {**body, "categories": list(CATEGORIES), "outputType": "FourSeverityLevels"}
        content = json.dumps(request).encode()
        with self._breakers[kind].call(is_probe=is_probe) as is_trial:
            found = self._answered(kind, content, 1 if is_trial else 1 + len(_PAUSES_S))
        if isinstance(found, ContentRefusedError):
            raise found
        return found

    def _answered(self, kind: str, content: bytes, tries: int) -> Severities | ContentRefusedError:
        """Return the severities or the refusal, after as many tries as it takes; raises ContentSafetyError."""
        failed = busy = 0
        while True:
            self._wait_while_busy()
            found = self._asked(kind, content)
            if not isinstance(found, _Failure):
                return found
            if found.is_busy and busy < _BUSY_TRIES:
                busy += 1
                self._hold_back(found.wait_s)
                continue
            failed += 1
            if found.is_lasting or failed >= tries or self._pause(_PAUSES_S[failed - 1]):
                raise ContentSafetyError(
                    f"the content-safety service {self.url} {found.reason}", is_lasting=found.is_lasting
                )

    def _asked(self, kind: str, content: bytes) -> "Severities | ContentRefusedError | _Failure":
        url = f"{self.url}/contentsafety/{kind}:analyze?api-version={API_VERSION}"
        try:
            answer = post_and_read(url, content, self._headers, _LARGEST_ANSWER, timeout_s=ANSWER_S)
        except PostError as error:
            return _Failure(f"doesn't answer: {error}")
        if answer.status in _REFUSALS:
            return ContentRefusedError(
                f"the content-safety service {self.url} refuses this {kind}: {answer.status}{_code(answer)}"
            )
        if answer.status != 200:
            return _Failure.of(answer)
        return _severities(answer.body) or _Failure("answers without a severity for each category")

    def _wait_while_busy(self) -> None:
        """Wait until the service takes requests again, not all threads for the same time.

        Raises ContentSafetyError if the process is to stop.
        """
        while True:
            wait_s = self._busy_until - time.monotonic()
            if self._pause(max(0.0, wait_s) * random.uniform(1, _LONGEST_JITTER)):  # noqa: S311
                raise ContentSafetyError(
                    "this worker was told to stop before the content-safety service answered"
                )
            if wait_s <= 0:
                return

    def _hold_back(self, wait_s: float) -> None:
        """Let all requests wait."""
        with self._lock:
            self._busy_until = max(self._busy_until, time.monotonic() + wait_s)


class _Failure:
    """Why a request has no result: `is_busy`, and to be repeated after `wait_s`, or `is_lasting`, and not at all."""

    def __init__(
        self, reason: str, *, is_lasting: bool = False, is_busy: bool = False, wait_s: float = 1.0
    ) -> None:
        self.reason, self.is_lasting, self.is_busy, self.wait_s = reason, is_lasting, is_busy, wait_s

    @classmethod
    def of(cls, answer: Answer) -> "_Failure":
        """Return what an answer of another status than 200 means."""
        status, code = answer.status, _code(answer)
        if status == 429:
            return cls(
                f"takes no more requests: 429{code}", is_busy=True, wait_s=_seconds(answer.retry_after)
            )
        if status in (401, 403):
            return cls(f"refuses the key of NIGHTMILL_CONTENT_SAFETY_KEY: {status}{code}", is_lasting=True)
        if status == 404:
            return cls("isn't at the address of NIGHTMILL_CONTENT_SAFETY_URL: 404", is_lasting=True)
        return cls(f"answers {status}{code}", is_lasting=status not in _TEMPORARY)


def _severities(body: bytes) -> Severities | None:
    """Return the severity of each category, the higher one if it comes twice; None if one isn't there."""
    found: Severities = {}
    try:
        for entry in json.loads(body)["categoriesAnalysis"]:
            severity = entry["severity"]
            if type(severity) is not int or not 0 <= severity <= _SEVEREST:
                return None
            found[entry["category"]] = max(float(severity), found.get(entry["category"], 0.0))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return {name: found[name] for name in CATEGORIES} if found.keys() >= set(CATEGORIES) else None


def _code(answer: Answer) -> str:
    """Return the code of an error; its message isn't told, as it may repeat the prompt."""
    try:
        code = json.loads(answer.body)["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    is_told = isinstance(code, str) and _CODE.fullmatch(code) and code != str(answer.status)
    return f" ({code})" if is_told else ""


def _seconds(text: str | None) -> float:
    """Return how long to wait by the header Retry-After, 0.1 to 15 seconds; 1 if it names none."""
    try:
        named = float(text or 1)
    except ValueError:
        return 1.0  # a date
    return 1.0 if math.isnan(named) else min(max(named, 0.1), _LONGEST_PAUSE_S)
