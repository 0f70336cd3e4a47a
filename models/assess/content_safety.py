"""The client of a content-safety service over HTTP: requests and answers are those of Azure AI Content Safety.

Each request has a time limit and is retried; after that a circuit breaker lets all others fail at once for a while, and
then one through as a trial. Nothing that isn't a full answer counts as one: without scores, no image leaves.
"""

import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models.errors import ContentSafetyError, SafetyUnknownError

Pixels = npt.NDArray[np.uint8]

CATEGORIES = ("Hate", "SelfHarm", "Sexual", "Violence")
API_VERSION = "2024-09-01"
LONGEST_TEXT = 10_000
"""Characters that the service takes at once; longer prompts are sent in parts."""

_LONGEST_SIDE, _SHORTEST_SIDE = 1024, 64  # it takes 50 to 2,048 pixels
_JPEG_QUALITY = 90
_CONNECT_S, _ANSWER_S = 5.0, 20.0
_LARGEST_ANSWER = 1 << 20
_PAUSES_S = (0.5, 1.0, 2.0)
_THROTTLED_TRIES = 10
_LONGEST_PAUSE_S = 15.0
_BREAK_S, _LONGEST_BREAK_S = 1.0, 30.0
_TEMPORARY = frozenset({408, 500, 502, 503, 504})
_SEVEREST = 7
_SHOWN = 200


class ContentSafetyService:
    """Rates images and prompts by category, as severities from 0 (safe) to 7. Thread-safe."""

    def __init__(self, endpoint: str, key: str, pause: Callable[[float], bool]) -> None:
        """`pause` waits so many seconds and returns whether the process is to stop."""
        import httpx2  # noqa: PLC0415 - only workers whose batches use the service need it

        self.endpoint = endpoint.rstrip("/")
        self._pause = pause
        self._breaker = _CircuitBreaker()
        self._http = httpx2.Client(
            headers={"Ocp-Apim-Subscription-Key": key, "Accept-Encoding": "identity"},
            timeout=httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S),
            follow_redirects=False,  # the key is for this host alone
        )

    def rate_image(self, image: Pixels) -> dict[str, float]:
        """Rate an (H, W, 3) uint8 RGB image of any size: sent as a JPEG, made smaller to 1,024 pixels.

        Raises SafetyUnknownError if the service refuses the image, ContentSafetyError if it can't be used at present.
        """
        content = base64.b64encode(_jpeg(image)).decode()
        return self._rate("image", {"image": {"content": content}})

    def rate_prompt(self, prompt: str) -> dict[str, float]:
        """Rate a prompt; of a long one, the severest part counts. Raises like `rate_image`."""
        parts = [prompt[start : start + LONGEST_TEXT] for start in range(0, len(prompt), LONGEST_TEXT)]
        rated = [self._rate("text", {"text": part}) for part in parts if part.strip()]
        return {name: max((each[name] for each in rated), default=0.0) for name in CATEGORIES}

    def check(self) -> None:
        """Rate a harmless prompt, to see whether the service can be used again. Raises ContentSafetyError."""
        self._breaker.allow_trial()
        try:
            self._rate("text", {"text": "a landscape"})
        except SafetyUnknownError as error:
            raise ContentSafetyError(str(error)) from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _rate(self, kind: str, body: dict[str, Any]) -> dict[str, float]:
        url = f"{self.endpoint}/contentsafety/{kind}:analyze?api-version={API_VERSION}"
        request = {**body, "categories": list(CATEGORIES), "outputType": "FourSeverityLevels"}
        content = json.dumps(request).encode()
        with self._breaker.call():
            status, answer = self._answered(url, content)
        if status == 400:
            raise SafetyUnknownError(f"{self._named()} refuses this {kind}: {_told(answer)}")
        return _severities(answer)

    def _answered(self, url: str, content: bytes) -> tuple[int, bytes]:
        """Return status 200 or 400 and the answer, after as many tries as it takes and is worthwhile."""
        import httpx2  # noqa: PLC0415

        failures = throttled = 0
        while True:
            wait_s: float | None = None
            try:
                status, answer, wait_s = self._post(url, content)
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
                reason = f"doesn't answer ({type(error).__name__}: {error})"
            else:
                if (status == 200 and _severities_or_none(answer) is not None) or status == 400:
                    return status, answer
                reason = _why_refused(status, answer)
                if status == 429 and throttled < _THROTTLED_TRIES:
                    throttled += 1
                    if self._pause(wait_s or 1.0):
                        raise ContentSafetyError(
                            f"{self._named()} was busy when this worker was told to stop"
                        )
                    continue
                if status not in _TEMPORARY and status != 200:
                    raise ContentSafetyError(f"{self._named()} {reason}")
            if failures == len(_PAUSES_S) or self._breaker.is_trial or self._pause(_PAUSES_S[failures]):
                raise ContentSafetyError(f"{self._named()} {reason}")
            failures += 1

    def _post(self, url: str, content: bytes) -> tuple[int, bytes, float | None]:
        """Return status, answer and the seconds to wait that it asks for. The answer as a whole has a time limit."""
        import httpx2  # noqa: PLC0415

        until, answer = time.monotonic() + _ANSWER_S, b""
        headers = {"Content-Type": "application/json"}
        with self._http.stream("POST", url, content=content, headers=headers) as response:
            for piece in response.iter_raw():
                answer += piece
                if time.monotonic() > until:
                    raise httpx2.ReadTimeout("it took too long to answer")
                if len(answer) > _LARGEST_ANSWER:
                    raise httpx2.ReadError("its answer is too long")
            return response.status_code, answer, _seconds(response.headers.get("Retry-After"))

    def _named(self) -> str:
        return f"the content-safety service {self.endpoint}"


class _CircuitBreaker:
    """After a call that failed all fail at once, for longer each time; then one is let through as a trial."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures, self._closed_until = 0, 0.0
        self._reason = ""
        self._local = threading.local()

    @property
    def is_trial(self) -> bool:
        """Whether this thread's call is the trial: it isn't repeated."""
        return bool(getattr(self._local, "is_trial", False))

    def call(self) -> "_CircuitBreaker":
        """Enter a call. Raises ContentSafetyError while the circuit is broken."""
        with self._lock:
            now = time.monotonic()
            if self._failures and now < self._closed_until:
                raise ContentSafetyError(self._reason)
            self._local.is_trial = self._failures > 0
            if self.is_trial:  # nobody else tries until this one has ended
                self._closed_until = now + 2 * _ANSWER_S
        return self

    def allow_trial(self) -> None:
        """Let the next call through, whenever the circuit broke."""
        with self._lock:
            self._closed_until = 0.0

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: object, __: object) -> None:
        with self._lock:
            if error is None or isinstance(error, SafetyUnknownError):
                self._failures = 0
            elif isinstance(error, ContentSafetyError) and (self.is_trial or not self._failures):
                # Calls that were under way when the circuit broke fail for the same reason, and don't count.
                self._failures += 1
                wait_s = min(_BREAK_S * 2 ** min(self._failures - 1, 10), _LONGEST_BREAK_S)
                self._closed_until, self._reason = time.monotonic() + wait_s, str(error)
            self._local.is_trial = False


def _jpeg(image: Pixels) -> bytes:
    height, width = image.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    below, right = max(0, _SHORTEST_SIDE - height), max(0, _SHORTEST_SIDE - width)
    padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
    done, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(padded, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    assert done
    return encoded.tobytes()


def _severities(answer: bytes) -> dict[str, float]:
    found = _severities_or_none(answer)
    assert found is not None
    return found


def _severities_or_none(answer: bytes) -> dict[str, float] | None:
    """Return the severity of each category; None if the answer isn't one for all of them."""
    try:
        entries = json.loads(answer)["categoriesAnalysis"]
        found = {entry["category"]: entry["severity"] for entry in entries}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    known = {name: found.get(name) for name in CATEGORIES}
    if not all(type(value) is int and 0 <= value <= _SEVEREST for value in known.values()):
        return None
    return {name: float(value) for name, value in known.items() if value is not None}


def _why_refused(status: int, answer: bytes) -> str:
    if status == 200:
        return "answers without a severity for each category"
    if status in (401, 403):
        return f"refuses the key of NIGHTMILL_CONTENT_SAFETY_KEY ({status}: {_told(answer)})"
    if status == 404:
        return "isn't at the address of NIGHTMILL_CONTENT_SAFETY_URL (404)"
    return f"answers {status}: {_told(answer)}"


def _told(answer: bytes) -> str:
    """Return the code and message of an error's answer, shortened and printable."""
    try:
        error = json.loads(answer)["error"]
        text = f"{error['code']}: {error['message']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        text = answer[:_SHOWN].decode("utf-8", "replace") or "nothing"
    return "".join(sign if sign.isprintable() else " " for sign in text)[:_SHOWN]


def _seconds(text: str | None) -> float | None:
    try:
        return min(max(float(text), 0.1), _LONGEST_PAUSE_S) if text else None
    except ValueError:
        return None  # a date
