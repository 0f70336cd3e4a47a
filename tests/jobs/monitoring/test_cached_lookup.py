"""A look-up is done once for all who ask at the same time, and holds up nobody for long."""

import threading
import time

from jobs.monitoring.cached_lookup import CachedLookup


def test_all_who_ask_at_once_share_one_look_up() -> None:
    times = []

    def look() -> int:
        times.append(1)
        time.sleep(0.2)
        return len(times)

    lookup, found = CachedLookup(look, fresh_s=0.5, wait_s=5), list[int | None]()
    asking = [threading.Thread(target=lambda: found.append(lookup.get())) for _ in range(20)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert (found, lookup.get()) == ([1] * 20, 1)
    time.sleep(0.5)
    assert lookup.get() == 2


def test_one_that_hangs_is_waited_for_once_and_briefly() -> None:
    release = threading.Event()
    lookup = CachedLookup(lambda: release.wait(20), fresh_s=0.0, wait_s=0.3)
    began = time.monotonic()
    assert [lookup.get() for _ in range(20)] == [None] * 20
    assert time.monotonic() - began < 2
    release.set()
    while lookup.get() is None:
        time.sleep(0.01)


def test_one_that_fails_gives_nothing_and_is_tried_again() -> None:
    answers = iter([ZeroDivisionError(), 7])

    def look() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    lookup = CachedLookup(look, fresh_s=0.0)
    assert (lookup.get(), lookup.get()) == (None, 7)
