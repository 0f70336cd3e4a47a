"""An authority of the tests' own, asked over HTTP without pauses between tries."""

from collections.abc import Iterator

import pytest

from scheduler.export.rfc3161_time_stamps import authority_client
from tests.scheduler.export.rfc3161_time_stamps.authority_server import (
    Authority,
    Served,
    make_authority,
    serving,
)


@pytest.fixture(autouse=True)
def _no_pause_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_client, "_AGAIN_S", 0.0)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("own") / "tsa", chain=True)


@pytest.fixture
def served(own: Authority) -> Iterator[Served]:
    with serving(own) as found:
        yield found
