from __future__ import annotations

from typing import Any

import pytest

from creche.protocol.forwarding import check_trusted_proxies, client_key, find_client
from creche.protocol.headers import Headers

TRUSTED = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix"]


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        # Nobody forwards.
        ("203.0.113.7", {}, "203.0.113.7"),
        ("10.0.0.1", {}, "10.0.0.1"),
        (None, {}, None),
        ("::ffff:203.0.113.7", {}, "203.0.113.7"),
        ("fe80::1%eth0", {}, "fe80::1"),
        # Who is not trusted may say what it likes.
        ("203.0.113.7", {"X-Forwarded-For": "198.51.100.1"}, "203.0.113.7"),
        ("203.0.113.7", {"Forwarded": "for=198.51.100.1"}, "203.0.113.7"),
        # A trusted proxy; what is left of the client is the client's invention.
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.1"}, "198.51.100.1"),
        ("192.0.2.1", {"X-Forwarded-For": "6.6.6.6, 198.51.100.1"}, "198.51.100.1"),
        ("::ffff:10.0.0.1", {"X-Forwarded-For": "198.51.100.1"}, "198.51.100.1"),
        (None, {"X-Forwarded-For": "198.51.100.1"}, "198.51.100.1"),
        # A row of them.
        ("10.0.0.1", {"X-Forwarded-For": "6.6.6.6, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"),
        ("10.0.0.1", {"X-Forwarded-For": "10.0.0.3, 10.0.0.2"}, "10.0.0.3"),
        # Ports and brackets.
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.1:4711"}, "198.51.100.1"),
        ("10.0.0.1", {"X-Forwarded-For": "[2001:db9::1]:4711"}, "2001:db9::1"),
        ("10.0.0.1", {"X-Forwarded-For": "2001:db9::1"}, "2001:db9::1"),
        # Forwarded.
        ("10.0.0.1", {"Forwarded": "for=198.51.100.1;proto=https;by=10.0.0.1"}, "198.51.100.1"),
        ("10.0.0.1", {"Forwarded": 'For="[2001:db9::1]:4711"'}, "2001:db9::1"),
        ("10.0.0.1", {"Forwarded": 'for="198.51.100.1:80" , for=10.0.0.2'}, "198.51.100.1"),
        ("10.0.0.1", {"Forwarded": 'for=6.6.6.6, for="198.51.100.1"; host="a,b"'}, "198.51.100.1"),
        ("10.0.0.1", {"Forwarded": r'for="198.51.\100.1"'}, "198.51.100.1"),
        # Nobody knows: the nearest that is known.
        ("10.0.0.1", {"Forwarded": "for=unknown"}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": "for=_hidden, for=10.0.0.2"}, "10.0.0.2"),
        ("10.0.0.1", {"Forwarded": "proto=https"}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": 'for="6.6.6.6, for=198.51.100.1'}, "10.0.0.1"),
        ("10.0.0.1", {"X-Forwarded-For": "garbage"}, "10.0.0.1"),
        ("10.0.0.1", {"X-Forwarded-For": ""}, "10.0.0.1"),
        # Both: one is not the proxy's, unless they agree.
        (
            "10.0.0.1",
            {"Forwarded": "for=6.6.6.6", "X-Forwarded-For": "198.51.100.1"},
            "10.0.0.1",
        ),
        (
            "10.0.0.1",
            {"Forwarded": "for=198.51.100.1", "X-Forwarded-For": "198.51.100.1"},
            "198.51.100.1",
        ),
    ],
)
def test_who_the_client_is(peer: str | None, headers: dict[str, str], client: str | None) -> None:
    assert find_client(peer, Headers(headers), TRUSTED) == client


def test_nobody_is_trusted_by_default() -> None:
    headers = Headers({"X-Forwarded-For": "198.51.100.1"})
    assert find_client("10.0.0.1", headers, ()) == "10.0.0.1"
    assert find_client(None, headers, ()) is None
    assert find_client(None, headers, ["10.0.0.1"]) is None


@pytest.mark.parametrize(
    ("proxies", "error", "why"),
    [
        ("10.0.0.1", TypeError, "a sequence of str, not a str"),
        ([1], TypeError, "must hold str, not int"),
        (["proxy.example"], ValueError, "trusted_proxies: 'proxy.example'"),
        (["10.0.0.1/8"], ValueError, "has host bits set"),
    ],
)
def test_a_bad_list_of_proxies_is_refused(proxies: Any, error: Any, why: str) -> None:
    with pytest.raises(error, match=why):
        check_trusted_proxies(proxies)


def test_what_counts_as_one_client() -> None:
    assert client_key("198.51.100.1") == "198.51.100.1"
    assert client_key("2001:db9::1") == client_key("2001:db9::ffff:1") == "2001:db9::/64"
    assert client_key("2001:db9:0:1::1") != client_key("2001:db9::1")


@pytest.mark.parametrize("pattern", ["x", " ", "a=b;", "a=,", '"', '\\"', "for=x y;"])
def test_a_long_header_costs_time_in_proportion(pattern: str) -> None:
    # If each byte was looked at again for every one behind it, this would take hours.
    headers = Headers([("Forwarded", pattern * 2**18)])
    assert find_client("10.0.0.1", headers, ["10.0.0.0/8"]) == "10.0.0.1"
