"""What `up` knows of processes that die again and again is told by `status` and `doctor`."""

from console.process_control import background_up
from console.process_control.background_up import UpReport
from tests.console.conftest import Typed


def test_status_and_doctor_tell_of_slowed_restarts(typed: Typed) -> None:
    typed.settings.data_dir.mkdir(exist_ok=True)
    why = "the worker process ends again and again"

    def processes() -> tuple[bool, str]:
        looked = typed("doctor", "--json").json
        return next((check["ok"], check["finding"]) for check in looked if check["check"] == "processes")

    assert processes() == (True, "nothing is up here")
    background_up.announce(typed.settings, UpReport(slowed=(why,)))
    assert why in typed("status").err
    assert processes() == (False, why)
    background_up.announce(typed.settings)
    assert why not in typed("status").err
    assert processes()[0]


def test_up_waits_for_a_database_of_ones_own(typed: Typed) -> None:
    away = typed.settings.model_copy(
        update={"database_url": type(typed.settings.database_url)("postgresql://nobody@127.0.0.1:9/nothing")}
    )
    ended = Typed(away, typed.folder)("up", "--wait", "1")
    assert ended.code == 1
    assert "PostgreSQL is away; waiting up to 1 s for it" in ended.err
    assert "can't reach PostgreSQL" in ended.err
    assert not (away.data_dir / "up.json").exists()
