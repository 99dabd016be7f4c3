from __future__ import annotations

import logging
from typing import Any

import pytest

from creche import options
from creche.options import (
    CLIENT_DEFAULTS,
    SERVER_DEFAULTS,
    ClientOptions,
    ServerOptions,
    client_options,
    server_options,
)


def test_every_option_is_declared_has_a_default_and_is_checked() -> None:
    for declared, defaults in ((ClientOptions, CLIENT_DEFAULTS), (ServerOptions, SERVER_DEFAULTS)):
        names = set(declared.__optional_keys__)
        assert names == {*defaults, "stall_timeout"}
        assert names <= set(options._CHECKS)


def test_the_defaults_pass_their_own_checks() -> None:
    for name, value in {**CLIENT_DEFAULTS, **SERVER_DEFAULTS}.items():
        options._CHECKS[name](name, value)


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


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("open_timeout", 0, ValueError),
        ("open_timeout", float("inf"), ValueError),
        ("open_timeout", float("nan"), ValueError),
        ("open_timeout", "10", TypeError),
        ("open_timeout", True, TypeError),
        ("close_timeout", None, TypeError),
        ("max_size", 0, ValueError),
        ("max_size", 1.5, TypeError),
        ("write_limit", None, TypeError),
        ("max_queue", True, TypeError),
        ("logger", "name", TypeError),
        ("origin", b"x", TypeError),
        ("ssl", "yes", TypeError),
        ("sock", 1, TypeError),
        ("additional_headers", {"a": 1}, TypeError),
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
    resolve = client_options if name in CLIENT_DEFAULTS else server_options
    with pytest.raises(kind, match=name if name != "additional_headers" else "header 'a'"):
        resolve({name: value})


def test_what_is_good_is_taken() -> None:
    logger = logging.getLogger("mine")
    resolved = server_options(
        {
            "hosts": ["example.com"],
            "logger": logger,
            "open_timeout": None,
            "max_size": None,
            "process_request": print,
        }
    )
    assert resolved["logger"] is logger
    assert resolved["hosts"] == ["example.com"]
    assert resolved["open_timeout"] is None
    assert resolved["process_request"] is print
