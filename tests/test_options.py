from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from creche import PerMessageDeflate
from creche.handshake.headers import Headers
from creche.options import checks
from creche.options.declared import ClientOptions, ServerOptions
from creche.options.resolving import (
    CLIENT_DEFAULTS,
    SERVER_DEFAULTS,
    client_options,
    reconnect_options,
    server_options,
)


def test_every_option_is_declared_has_a_default_and_is_checked() -> None:
    for declared, defaults in ((ClientOptions, CLIENT_DEFAULTS), (ServerOptions, SERVER_DEFAULTS)):
        names = set(declared.__optional_keys__)
        assert names == {*defaults, "stall_timeout"}
        assert names <= set(checks._CHECKS)


def test_the_defaults_pass_their_own_checks() -> None:
    for name, value in {**CLIENT_DEFAULTS, **SERVER_DEFAULTS}.items():
        checks._CHECKS[name](name, value)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 40),
        ({"ping_interval": 5, "ping_timeout": 1}, 6),
        ({"ping_interval": None}, 40),
        ({"ping_timeout": None}, 40),
        ({"stall_timeout": 3}, 3),
        ({"stall_timeout": None}, None),
    ],
)
def test_stall_timeout_follows_the_pings_unless_it_is_given(
    given: dict[str, Any], seconds: float | None
) -> None:
    assert client_options(given)["stall_timeout"] == seconds
    assert server_options(given)["stall_timeout"] == seconds


def test_giving_options_does_not_change_the_defaults() -> None:
    client_options({"max_size": 5})
    assert client_options({})["max_size"] == 2**20


COUNTS = [
    *("max_size", "max_fragments", "max_queue", "max_queue_bytes", "write_limit"),
    *("max_header_bytes", "max_redirects", "max_connections", "max_handshakes"),
    *("max_connections_per_client", "max_buffered_bytes"),
]
SECONDS = [
    *("open_timeout", "close_timeout", "linger_timeout", "message_timeout", "stall_timeout"),
    *("ping_interval", "ping_timeout", "max_lifetime"),
]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("open_timeout", 0, ValueError),
        ("open_timeout", float("inf"), ValueError),
        ("open_timeout", float("nan"), ValueError),
        ("open_timeout", "10", TypeError),
        ("open_timeout", True, TypeError),
        ("close_timeout", None, TypeError),
        ("linger_timeout", None, TypeError),
        ("max_size", 0, ValueError),
        ("max_size", 1.5, TypeError),
        ("write_limit", None, TypeError),
        ("max_queue", True, TypeError),
        ("logger", "name", TypeError),
        ("origin", b"x", TypeError),
        ("ssl", "yes", TypeError),
        ("redirects", 1, ValueError),
        ("sock", 1, TypeError),
        ("additional_headers", {"a": 1}, TypeError),
        ("additional_headers", {1: "a"}, TypeError),
        ("additional_headers", {"a": "\n"}, ValueError),
        ("process_request", 1, TypeError),
        ("reuse_port", 1, TypeError),
        ("sockets", 1, TypeError),
        ("origin", "a\nb", ValueError),
        ("server_header", "a\nb", ValueError),
        ("message_timeout", 0, ValueError),
        ("max_connections", 0, ValueError),
        ("max_handshakes", -1, ValueError),
        ("max_buffered_bytes", 1.5, TypeError),
        ("hosts", "example.com", TypeError),
        ("hosts", [1], TypeError),
    ],
)
def test_a_bad_value_is_told_with_the_options_name(
    name: str, value: Any, kind: type[Exception]
) -> None:
    resolve = (
        server_options if name in SERVER_DEFAULTS or name == "stall_timeout" else client_options
    )
    with pytest.raises(kind, match=name):
        resolve({name: value})


@pytest.mark.parametrize("name", [*COUNTS, *SECONDS, "handshake_rate"])
def test_a_number_that_is_too_large_is_told_with_the_options_name(name: str) -> None:
    resolve = client_options if name in CLIENT_DEFAULTS else server_options
    too_large: list[Any] = [2**63, 10**400, -(10**5000), 10**5000]
    if name not in COUNTS:
        too_large += [1e10, 5e-324 if name == "handshake_rate" else -5e-324]
    for value in too_large:
        with pytest.raises(ValueError, match=f"^{name} must be"):
            resolve({name: value})


def test_the_largest_numbers_that_there_are_mean_no_limit() -> None:
    resolved = server_options({name: sys.maxsize for name in COUNTS if name != "max_redirects"})
    assert resolved["max_size"] == sys.maxsize


def test_what_is_good_is_taken() -> None:
    logger = logging.getLogger("mine")
    resolved = server_options(
        {
            "hosts": ["example.com"],
            "logger": logger,
            "open_timeout": None,
            "compression": "deflate",
            "max_size": None,
            "process_request": print,
        }
    )
    assert resolved["logger"] is logger
    assert resolved["hosts"] == ["example.com"]
    assert resolved["open_timeout"] is None
    assert resolved["process_request"] is print


def test_none_means_none() -> None:
    for resolve in (client_options, server_options):
        resolved = resolve({"subprotocols": None, "extensions": None, "compression": None})
        assert resolved["subprotocols"] == []
        assert resolved["extensions"] == []


DEFLATE = PerMessageDeflate()

# Every option that can be iterated, with what it may hold.
ITERABLE: list[tuple[str, list[Any], Any]] = [
    ("additional_headers", [("X-Token", "t"), ("X-Token", "u")], ("X-Late", "v")),
    ("subprotocols", ["a", "b"], "c"),
    ("extensions", [DEFLATE], PerMessageDeflate()),
    ("origins", ["https://a.example", None], "https://evil.example"),
    ("hosts", ["a.example", "b.example"], "evil.example"),
    ("trusted_proxies", ["10.0.0.0/8", "unix"], "0.0.0.0/0"),
]


def resolved(name: str, value: Any) -> list[Any]:
    resolve = client_options if name in CLIENT_DEFAULTS else server_options
    kept: Any = resolve({name: value})[name]  # type: ignore[literal-required]
    return list(kept.fields if isinstance(kept, Headers) else kept)


@pytest.mark.parametrize(("name", "elements", "_late"), ITERABLE)
def test_checking_an_option_does_not_use_it_up(name: str, elements: list[Any], _late: Any) -> None:
    def generate() -> Iterator[Any]:
        yield from elements

    for value in (iter(elements), generate(), tuple(elements), (each for each in elements)):
        assert resolved(name, value) == elements


@pytest.mark.parametrize(("name", "elements", "late"), ITERABLE)
def test_what_is_changed_after_the_check_changes_nothing(
    name: str, elements: list[Any], late: Any
) -> None:
    resolve: Any = client_options if name in CLIENT_DEFAULTS else server_options
    given = list(elements)
    kept = resolve({name: given})[name]
    given.append(late)
    assert list(kept.fields if isinstance(kept, Headers) else kept) == elements


def test_headers_that_are_changed_after_the_check_change_nothing() -> None:
    headers, mapping = Headers([("X-A", "1"), ("X-A", "2")]), {"X-A": "1"}
    kept = [client_options({"additional_headers": each}) for each in (headers, mapping)]
    headers.add("X-B", "3")
    mapping["X-B"] = "3"
    first, second = (dict(each)["additional_headers"] for each in kept)
    assert isinstance(first, Headers)
    assert isinstance(second, Headers)
    assert first.fields == [("X-A", "1"), ("X-A", "2")]
    assert second.fields == [("X-A", "1")]


def test_what_reconnect_reads_anew_is_what_can_be_read_again() -> None:
    given: Any
    for given in ({"X-A": "1"}, [("X-A", "1")]):
        assert reconnect_options({"additional_headers": given})["additional_headers"] is given
    kept = reconnect_options({"additional_headers": zip(["X-A"], ["1"], strict=True)})
    for _ in range(2):
        assert Headers(kept["additional_headers"] or ()).fields == [("X-A", "1")]


def test_sockets_are_taken_once() -> None:
    with closing(socket.socket()) as sock:
        given = [sock]
        kept = [server_options({"sockets": each})["sockets"] for each in (given, iter([sock]))]
        given.clear()
        assert kept == [[sock], [sock]]


@pytest.mark.parametrize("name", [*(name for name, _, _ in ITERABLE), "sockets"])
def test_what_cannot_be_iterated_is_told_with_the_options_name(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a sequence, not int"):
        resolved(name, 1)


@pytest.mark.parametrize("fields", [["ab"], [("a", "b", "c")], "ab", [5]])
def test_headers_are_pairs(fields: Any) -> None:
    with pytest.raises(TypeError, match="additional_headers must be a mapping, or pairs of"):
        client_options({"additional_headers": fields})


def test_hosts_and_origins_are_kept_in_ascii() -> None:
    client = client_options(
        {
            "host": "faß.example.",
            "server_hostname": "faß.example.",
            "proxy_server_hostname": "FAß.example",
            "origin": "https://faß.example",
        }
    )
    assert client["host"] == "xn--fa-hia.example."
    assert client["server_hostname"] == client["proxy_server_hostname"] == "xn--fa-hia.example"
    assert client["origin"] == "https://xn--fa-hia.example"
    server = server_options(
        {"hosts": ["*.faß.example", "a.example"], "origins": ["https://faß.example", None]}
    )
    assert server["hosts"] == ["*.xn--fa-hia.example", "a.example"]
    assert server["origins"] == ["https://xn--fa-hia.example", None]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("host", "a/b", "host must be the name or the IP address of a host, not 'a/b'"),
        ("host", "[::1]", "host must be the name or the IP address of a host, not '\\[::1]'"),
        (
            "server_hostname",
            "\ufffd",
            "server_hostname must be the name or the IP address of a host",
        ),
        ("origin", "https://\ufffd.example", "origin has a host that is not a domain name"),
        ("origins", ["https://\ufffd.example"], "origins: number 1 has a host that is not"),
        ("hosts", ["\ufffd.example"], "hosts: '\ufffd.example' is not a domain name"),
    ],
)
def test_what_is_no_host_is_told_with_the_options_name(name: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        resolved(name, value)
