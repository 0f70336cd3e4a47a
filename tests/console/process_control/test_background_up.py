"""What `up` leaves for other commands to know."""

import os

import pytest
from pydantic import SecretStr

from console.process_control import background_up
from jobs.errors import ServiceError
from jobs.settings import Settings
from jobs.states import Weights
from tests.console.conftest import Typed


def test_settings_that_the_workers_that_are_up_have_not_are_told(settings: Settings) -> None:
    assert background_up.other_settings(settings) == {}, "nothing is up"
    settings.data_dir.mkdir(exist_ok=True)
    background_up.announce(settings)
    assert background_up.running(settings) == os.getpid()
    assert background_up.other_settings(settings) == {}
    other = settings.model_copy(update={"watermark": "ACME", "weights": Weights.FP8, "log_level": "ERROR"})
    assert background_up.other_settings(other) == {"watermark": ("NMIL", "ACME"), "weights": ("full", "fp8")}
    keyed = settings.model_copy(update={"watermark_key": SecretStr("7:a secret of the test")})
    assert list(background_up.other_settings(keyed)) == ["watermark_key"]
    assert "secret" not in str(background_up.other_settings(keyed))
    background_up.withdraw(settings)
    assert background_up.other_settings(other) == {}


def test_one_is_up_with_a_data_folder(settings: Settings, typed: Typed) -> None:
    with background_up.sole(settings):
        with (
            pytest.raises(ServiceError, match="another `nightmill up` runs with "),
            background_up.sole(settings),
        ):
            pass
        background_up.announce(settings)
        refused = typed("up", "--foreground", "--restart")
        assert (refused.code, f"already up, as process {os.getpid()}" in refused.err) == (2, True)
    with background_up.sole(settings):
        assert background_up.running(settings) == os.getpid()
