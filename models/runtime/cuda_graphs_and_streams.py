"""CUDA graphs, streams and events: work on a device without making the host wait."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

Work = Callable[[], None]

AHEAD = 4
"""Calls queued on the device: for their duration the host may do other work without the device becoming idle."""


def recorded(work: Work, device: torch.device) -> Work:
    """Record `work`, which always uses the same tensors, as a CUDA graph: one launch instead of thousands.

    Runs it four times: three times to let libraries initialise, once for the recording. Other threads may use the
    device meanwhile.
    """
    beside = side_stream(device)
    with on(beside, ()):
        for _ in range(3):
            work()
    torch.cuda.current_stream(device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


class Pace:
    """Limit the host to `AHEAD` calls ahead of a CUDA device, so that heartbeats and stop requests stay timely."""

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type == "cuda"
        self._events: deque[Any] = deque()

    def called(self) -> None:
        """Note that a call was queued on the device; wait if too many are queued."""
        if not self._waits:
            return
        self._events.append(event_now())
        if len(self._events) > AHEAD:
            self._events.popleft().synchronize()


def event_now() -> Any:
    """Record an event that completes when the CUDA device has finished the work queued so far."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def side_stream(device: torch.device) -> Any:
    """Return a new stream on a CUDA device, None on other devices."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


def own_stream(device: torch.device) -> Any:
    """Return a `side_stream` for a loaded model; it waits for all work queued on the current stream so far."""
    stream = side_stream(device)
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def beside(stream: Any) -> AbstractContextManager[Any]:
    """Queue work on `stream`, so that waiting for its results waits for that stream alone; None changes nothing."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


@contextmanager
def on(stream: Any, reads: Sequence[torch.Tensor]) -> Iterator[None]:
    """Queue work on `stream`, after what is queued on the current stream so far; None changes nothing.

    `reads` are tensors of the current stream; their memory isn't reused before `stream` has read them.
    """
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        for values in reads:
            values.record_stream(stream)
    with beside(stream):
        yield
