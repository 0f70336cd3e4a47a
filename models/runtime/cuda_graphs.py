"""Work on a device that the host doesn't wait for: recorded once, a few calls ahead, beside other work."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

Work = Callable[[], None]

AHEAD = 4
"""Calls that wait on the device while the host does something else: it may take that long without a gap."""


def recorded(work: Work, device: torch.device) -> Work:
    """`work`, which reads and writes the same tensors each time, as one CUDA graph: one launch instead of thousands.

    It is done four times now: thrice for what libraries set up at first, once for the recording. Other threads may use
    the device meanwhile.
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
    """Lets the host be `AHEAD` calls ahead of a CUDA device and no more, lest signs of life and stops mean little."""

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type == "cuda"
        self._events: deque[Any] = deque()

    def called(self) -> None:
        """A call was handed to the device."""
        if not self._waits:
            return
        self._events.append(event_now())
        if len(self._events) > AHEAD:
            self._events.popleft().synchronize()


def event_now() -> Any:
    """What tells when a CUDA device has done what it was given so far."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def side_stream(device: torch.device) -> Any:
    """A stream of its own on a CUDA device, None on others."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


def own_stream(device: torch.device) -> Any:
    """As `side_stream`, for a model that is loaded: it begins when all asked for so far is done."""
    stream = side_stream(device)
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def beside(stream: Any) -> AbstractContextManager[Any]:
    """Within it, work goes to `stream`, and who asks for its results waits for that alone; None changes nothing."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


@contextmanager
def on(stream: Any, reads: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within it, work goes to `stream`, after what was asked for so far; None changes nothing.

    `reads` are tensors of the other stream, whose memory isn't given away before `stream` has read them.
    """
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        for values in reads:
            values.record_stream(stream)
    with beside(stream):
        yield
