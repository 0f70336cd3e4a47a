"""A process that stops itself while it asks a database, over and over: `python -m … URL TIMES SEED`.

It prints what the database says at the end. Connections that were being made when the signal came are left open, which
nobody can close; so the process is one of its own.
"""

import random
import signal
import sys

from sqlalchemy import Engine, create_engine, text

from console.process_control.stop_by_signal import Stopped, raise_stopped, stop_on_signals, stopping


@stopping()
def asked_until_stopped(engine: Engine) -> None:
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.01))
    while True:
        with engine.begin() as connection:
            connection.execute(text("SELECT count(*) FROM jobs")).all()


def main() -> None:
    url, times, seed = sys.argv[1:]
    random.seed(seed)
    stop_on_signals()
    signal.signal(signal.SIGALRM, raise_stopped)
    engine, stops = create_engine(url), 0
    for _ in range(int(times)):
        try:
            asked_until_stopped(engine)
        except Stopped:
            stops += 1
    with engine.connect() as connection:
        print(stops, connection.execute(text("SELECT 1")).scalar())


if __name__ == "__main__":
    main()
