"""Addresses are HOST:PORT."""

import pytest

from jobs.errors import UsageError
from jobs.monitoring.listen_address import ListenAddress
from jobs.settings import load_settings


@pytest.mark.parametrize("text", ["0.0.0.0:9464", "localhost:1", "[::1]:65535", "mill-3.example:9464"])
def test_addresses_are_read_and_written(text: str) -> None:
    assert str(ListenAddress.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "9464", ":9464", "host", "host:0", "host:65536", "::1:80", "http://host:1", "a b:1", "h:1\n", "h:١"],
)
def test_what_is_none_is_said_with_the_name_of_the_variable(text: str) -> None:
    with pytest.raises(UsageError, match="NIGHTMILL_METRICS_ADDRESS: must be HOST:PORT, as in"):
        load_settings(metrics_address=text)


def test_the_ports_that_follow_end() -> None:
    address = ListenAddress.parse("[::]:65534")
    assert str(address.moved(1)) == "[::]:65535"
    with pytest.raises(ValueError, match="HOST:PORT"):
        address.moved(2)
