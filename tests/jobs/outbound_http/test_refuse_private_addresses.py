"""Messages go to the public internet, unless their receiver may be elsewhere."""

import pytest

from jobs.errors import UsageError
from jobs.outbound_http.refuse_private_addresses import ForbiddenAddressError, check_url, is_public, resolve


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # a cloud's metadata
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hooks",
        "https://example.com:8443/a?b=c",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/",
    ],
)
def test_urls_that_messages_can_go_to(url: str) -> None:
    check_url(url, allows_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hooks",
        "ftp://example.com/",
        "https://",
        "https:///path",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://user:pass@example.com/",
        "https://example.com/#part",
        "https://exämple.com/",
        "https://example.com/a b",
        "https://example.com/\n",
        "https://[::1",
        f"https://example.com/{'x' * 2000}",
    ],
)
@pytest.mark.parametrize("allows_private", [True, False])
def test_urls_that_are_none(url: str, allows_private: bool) -> None:
    with pytest.raises(UsageError, match="the receiver's URL"):
        check_url(url, allows_private=allows_private)


@pytest.mark.parametrize("url", ["http://example.com/", "https://127.0.0.1/", "https://[::ffff:10.0.0.1]/"])
def test_urls_that_need_leave(url: str) -> None:
    with pytest.raises(UsageError, match="--allow-private"):
        check_url(url, allows_private=False)
    check_url(url, allows_private=True)


def test_a_name_that_leads_to_a_private_address() -> None:
    with pytest.raises(ForbiddenAddressError, match=r"localhost leads to .*, which isn't a public address"):
        resolve("localhost", 80, allows_private=False)
    assert "127.0.0.1" in resolve("localhost", 80, allows_private=True)
