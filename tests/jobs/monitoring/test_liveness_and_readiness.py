"""A process is alive while its main loop goes on, and ready while nothing keeps it from working."""

import time

from jobs.monitoring.liveness_and_readiness import Liveness, readiness


def test_a_loop_that_stands_still_is_not_alive_unless_it_was_asked_to_stop() -> None:
    liveness = Liveness(0.2)
    assert liveness.check().status == 200
    time.sleep(0.25)
    assert liveness.check().status == 503
    assert liveness.check().body.startswith(b"the main loop has stood still for 0 s")
    liveness.beat()
    assert liveness.check().body == b"ok\n"
    time.sleep(0.25)
    liveness.stop()
    assert liveness.check().body == b"stopping\n"


def test_what_keeps_a_process_from_working_is_said() -> None:
    problems = ["PostgreSQL doesn't answer", "1 of 2 children is up"]
    route = readiness(lambda: problems)
    assert (route("").status, route("").body) == (503, "\n".join([*problems, ""]).encode())
    problems.clear()
    assert (route("").status, route("").body) == (200, b"ready\n")
