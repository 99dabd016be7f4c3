from __future__ import annotations

from typing import Any

import pytest

from creche.handshake.forwarding import check_trusted_proxies, client_key, find_client
from creche.handshake.headers import Headers
from support import assert_linear

TRUSTED = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix"]


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        # Nobody forwards.
        ("203.0.113.7", {}, "203.0.113.7"),
        ("10.0.0.1", {}, "10.0.0.1"),
        (None, {}, None),
        ("unix", {}, None),
        ("unknown", {}, None),
        ("::ffff:203.0.113.7", {}, "203.0.113.7"),
        ("fe80::1%eth0", {}, "fe80::1"),
        # Who is not trusted may say what it likes.
        ("203.0.113.7", {"X-Forwarded-For": "198.51.100.1"}, "203.0.113.7"),
        ("203.0.113.7", {"Forwarded": "for=198.51.100.1"}, "203.0.113.7"),
        # Nor who has no address: only a Unix socket makes a peer of one.
        ("unknown", {"X-Forwarded-For": "198.51.100.1"}, None),
        ("unknown", {"Forwarded": "for=198.51.100.1"}, None),
        (None, {"X-Forwarded-For": "198.51.100.1"}, None),
        # A trusted proxy; what is left of the client is the client's invention.
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.1"}, "198.51.100.1"),
        ("192.0.2.1", {"X-Forwarded-For": "6.6.6.6, 198.51.100.1"}, "198.51.100.1"),
        ("::ffff:10.0.0.1", {"X-Forwarded-For": "198.51.100.1"}, "198.51.100.1"),
        ("unix", {"X-Forwarded-For": "198.51.100.1"}, "198.51.100.1"),
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
        ("10.0.0.1", {"Forwarded": 'for=", for=198.51.100.1'}, None),
        # It is not known: the proxy is not the client.
        ("10.0.0.1", {"Forwarded": '"'}, None),
        ("10.0.0.1", {"Forwarded": ""}, None),
        ("10.0.0.1", {"Forwarded": "for"}, None),
        ("10.0.0.1", {"Forwarded": "for="}, None),
        ("10.0.0.1", {"Forwarded": 'for=""'}, None),
        ("10.0.0.1", {"Forwarded": "for=unknown"}, None),
        ("10.0.0.1", {"Forwarded": "for=_hidden, for=10.0.0.2"}, None),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.1, for=_hidden"}, None),
        ("10.0.0.1", {"Forwarded": "proto=https"}, None),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.1, proto=https"}, None),
        ("10.0.0.1", {"Forwarded": 'for="6.6.6.6, for=198.51.100.1'}, None),
        ("10.0.0.1", {"X-Forwarded-For": "garbage"}, None),
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.1, unknown"}, None),
        ("10.0.0.1", {"X-Forwarded-For": ""}, None),
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.1,"}, None),
        ("unix", {"X-Forwarded-For": "unix:"}, None),
        # What is malformed says nothing, and does not hide what stands right of it.
        ("10.0.0.1", {"Forwarded": "for=198.51.100.1;proto"}, None),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.1;;"}, None),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.1;for=198.51.100.2"}, None),
        ("10.0.0.1", {"Forwarded": "for = 198.51.100.1"}, None),
        ("10.0.0.1", {"Forwarded": 'for="198.51.100.1"x'}, None),
        ("10.0.0.1", {"Forwarded": "x y z, =, ;, for=198.51.100.1"}, "198.51.100.1"),
        ("10.0.0.1", {"Forwarded": 'a "b,c" d, for=198.51.100.1'}, "198.51.100.1"),
        # Addresses that are none, and what stands around them.
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.1:port"}, None),
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.1:"}, None),
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.1%eth0"}, None),
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.01"}, None),
        ("10.0.0.1", {"X-Forwarded-For": "[198.51.100.1]"}, None),
        ("10.0.0.1", {"X-Forwarded-For": "[2001:db9::1"}, None),
        ("10.0.0.1", {"X-Forwarded-For": "[2001:db9::1]x"}, None),
        ("10.0.0.1", {"X-Forwarded-For": "[2001:db9::1%eth0]:80"}, "2001:db9::1"),
        ("10.0.0.1", {"X-Forwarded-For": "::ffff:198.51.100.1"}, "198.51.100.1"),
        ("10.0.0.1", {"X-Forwarded-For": "::ffff:198.51.100.1, ::ffff:10.0.0.2"}, "198.51.100.1"),
        ("10.0.0.1", {"Forwarded": 'for="198.51.100.1:_secret"'}, "198.51.100.1"),
        # Both: one is not the proxy's, unless they agree.
        (
            "10.0.0.1",
            {"Forwarded": "for=6.6.6.6", "X-Forwarded-For": "198.51.100.1"},
            None,
        ),
        ("10.0.0.1", {"Forwarded": '"', "X-Forwarded-For": "198.51.100.1"}, None),
        ("10.0.0.1", {"Forwarded": "for=unknown", "X-Forwarded-For": "unknown"}, None),
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


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For"])
def test_fields_are_read_from_the_last(name: str) -> None:
    before, prefix = ('"', "for=") if name == "Forwarded" else ("garbage", "")
    fields = [before, f"{prefix}6.6.6.6, {prefix}198.51.100.1", f"{prefix}10.0.0.2"]
    headers = Headers([(name, field) for field in fields])
    assert find_client("10.0.0.1", headers, TRUSTED) == "198.51.100.1"


def test_a_network_of_ipv4_may_be_written_as_ipv6() -> None:
    headers = Headers({"X-Forwarded-For": "198.51.100.1"})
    assert find_client("10.0.0.1", headers, ["::ffff:10.0.0.0/104"]) == "198.51.100.1"
    assert find_client("11.0.0.1", headers, ["::ffff:10.0.0.0/104"]) == "11.0.0.1"


def key(peer: str | None, headers: dict[str, str] | None = None) -> str | None:
    return client_key(peer, Headers(headers or {}), TRUSTED)


def test_what_counts_as_one_client() -> None:
    assert key("198.51.100.1") == key("::ffff:198.51.100.1") == "198.51.100.1"
    assert key("2001:db9::1") == key("2001:db9::ffff:1%eth0") == "2001:db9::/64"
    assert key("2001:db9:0:1::1") != key("2001:db9::1")
    assert key("10.0.0.1", {"X-Forwarded-For": "198.51.100.1"}) == "198.51.100.1"


def test_who_hides_counts_as_the_proxy() -> None:
    for headers in ({"Forwarded": '"'}, {"Forwarded": "for=_a"}, {"X-Forwarded-For": "unknown"}):
        assert key("10.0.0.1", headers) == "10.0.0.1"
        assert key("unix", headers) == "unix"
    # Nobody is told apart on a Unix socket by itself, nor where there are no addresses.
    assert key("unix") is key(None) is None
    assert client_key("unix", Headers({"Forwarded": '"'}), ["10.0.0.0/8"]) is None
    assert key(None, {"X-Forwarded-For": "198.51.100.1"}) is None


def test_all_whose_address_is_lost_count_as_one() -> None:
    assert key("unknown") == "unknown"
    assert key("unknown", {"X-Forwarded-For": "198.51.100.1"}) == "unknown"


PATTERNS = ["x", " ", "a=b;", "a=,", '"', '\\"', "for=x y;", 'a="b";', '"a",', "=", ";", ",", "\t="]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_long_header_costs_time_in_proportion(pattern: str) -> None:
    # If each byte was looked at again for every one behind it, this would take hours.
    headers = Headers([("Forwarded", pattern * 2**18), ("X-Forwarded-For", pattern * 2**18)])
    assert find_client("10.0.0.1", headers, ["10.0.0.0/8"]) is None


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For"])
@pytest.mark.parametrize("pattern", [*PATTERNS, "10.0.0.1,", "for=10.0.0.1,"])
def test_reading_who_the_client_is_is_linear(name: str, pattern: str) -> None:
    assert_linear(
        lambda size: Headers([(name, pattern * size), (name, pattern * size)]),
        lambda headers: find_client("10.0.0.1", headers, ["10.0.0.0/8"]),
    )
