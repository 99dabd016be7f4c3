from __future__ import annotations

import base64
from typing import Any

import pytest

from creche.protocol.exceptions import InvalidURI
from creche.protocol.uri import URI, parse_uri


@pytest.mark.parametrize(
    ("uri", "parsed", "host_header"),
    [
        ("ws://localhost", URI(False, "localhost", 80, "/"), "localhost"),
        (
            "ws://localhost:8765/a/b?c=d",
            URI(False, "localhost", 8765, "/a/b?c=d"),
            "localhost:8765",
        ),
        ("wss://Example.COM/?", URI(True, "example.com", 443, "/?"), "example.com"),
        ("wss://example.com:80/", URI(True, "example.com", 80, "/"), "example.com:80"),
        ("ws://[::1]:81/", URI(False, "::1", 81, "/"), "[::1]:81"),
        ("WS://h/%20", URI(False, "h", 80, "/%20"), "h"),
        ("ws://münchen.de/ü?ü", URI(False, "xn--mnchen-3ya.de", 80, "/%C3%BC?%C3%BC"), None),
    ],
)
def test_a_uri_is_taken_apart(uri: str, parsed: URI, host_header: str | None) -> None:
    assert parse_uri(uri) == parsed
    if host_header is not None:
        assert parse_uri(uri).host_header == host_header


@pytest.mark.parametrize(
    ("userinfo", "credentials"), [("me:p%40ss", b"me:p@ss"), ("me", b"me:"), (":x", b":x")]
)
def test_a_user_becomes_an_authorization(userinfo: str, credentials: bytes) -> None:
    expected = "Basic " + base64.b64encode(credentials).decode()
    assert parse_uri(f"ws://{userinfo}@host/").authorization == expected


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://localhost/", "must begin with ws:// or wss://"),
        ("localhost:8765", "must begin with ws:// or wss://"),
        ("ws://localhost/#part", "must not have a fragment"),
        ("ws://localhost/#", "must not have a fragment"),
        ("ws:///path", "has no host"),
        ("ws://host:port/", "cannot be parsed"),
        ("ws://host:70000/", "cannot be parsed"),
        ("ws://host:0/", "has port 0, which is none"),
        ("ws://[::1/", "cannot be parsed"),
        ("ws://host/a b", "has a space or a control character"),
        ("ws://host/a\x7fb", "has a space or a control character"),
        ("ws://host/a\r\nb", "has a space or a control character"),
        ("ws://" + "ü" * 70 + "/", "has a host that is not a domain name"),
        ("ws://host/\udc80", "has a lone surrogate, which is no character"),
        ("ws://user\udc80@host/", "has a lone surrogate, which is no character"),
    ],
)
def test_a_bad_uri_is_named_with_what_is_wrong(uri: str, why: str) -> None:
    with pytest.raises(InvalidURI, match=why) as caught:
        parse_uri(uri)
    assert caught.value.uri == uri
    assert caught.value.why == why or why == "cannot be parsed"
    assert str(caught.value).startswith("uri ")


def test_credentials_are_not_told_in_the_text() -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri("http://me:secret@host/path?token=secret")
    assert "secret" not in str(caught.value)
    assert "//***@host/path" in str(caught.value)


def test_a_uri_is_a_str() -> None:
    uri: Any = b"ws://localhost/"
    with pytest.raises(TypeError, match="uri must be a str, not bytes"):
        parse_uri(uri)


def test_a_user_with_a_colon_is_refused() -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri("ws://us%3Aer:secret@example.com/")
    assert caught.value.why == "has a user with a colon, which Basic authentication forbids"
    assert "secret" not in str(caught.value)
