"""`python -m tests.chaos.stub_scheduler`: the real scheduler, or a broken twin of it."""

from jobs.unexpected_errors import plain_errors
from tests.chaos.twins import become_twin

if __name__ == "__main__":
    become_twin()
    from scheduler.__main__ import main

    with plain_errors():
        main()
