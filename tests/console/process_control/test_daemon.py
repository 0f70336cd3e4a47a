"""What `up` leaves for other commands to know."""

import os

from console.process_control import daemon
from jobs.settings import Settings
from jobs.states import Weights


def test_settings_that_the_workers_that_are_up_have_not_are_told(settings: Settings) -> None:
    assert daemon.other_settings(settings) == {}, "nothing is up"
    settings.data_dir.mkdir(exist_ok=True)
    daemon.announce(settings)
    assert daemon.running(settings) == os.getpid()
    assert daemon.other_settings(settings) == {}
    other = settings.model_copy(update={"watermark": "ACME", "weights": Weights.FP8, "log_level": "ERROR"})
    assert daemon.other_settings(other) == {"watermark": ("NMIL", "ACME"), "weights": ("full", "fp8")}
    daemon.withdraw(settings)
    assert daemon.other_settings(other) == {}
