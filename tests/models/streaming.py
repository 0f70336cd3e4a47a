"""Render a stream of requests as a worker does: each taken when the engine has room for it."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from models.engine.engine import Rendered
from models.families.family import ModelFamily


def stream(model: ModelFamily[Any], requests: Iterable[Any], **how: Any) -> Iterator[list[Rendered]]:
    """Yield pictures as they are finished, keyed by the positions of their requests."""
    waiting = enumerate(requests)
    first = next(waiting, None)
    assert first is not None
    with closing(model.engine(model.check(first[1]), **how)) as engine:
        engine.add(*first)
        while True:
            while engine.has_room() and (item := next(waiting, None)):
                engine.add(*item)
            if engine.is_empty:
                return
            yield engine.step()
