"""`python -m tests.chaos.stub_worker`: the real worker with models that draw without torch."""

from jobs.unexpected_errors import plain_errors
from tests.chaos.stub import install
from tests.chaos.twins import become_twin

# Here, so that spawned children do it too: they import what their parent was started by.
install()
become_twin()

if __name__ == "__main__":
    from worker.__main__ import main

    with plain_errors():
        main()
