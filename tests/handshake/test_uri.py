from __future__ import annotations

import base64
from typing import Any

import pytest

from creche.handshake.exceptions import InvalidURI
from creche.handshake.uri import URI, certificate_name, encode_host, encode_origin, parse_uri


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
        ("wss://host./", URI(True, "host.", 443, "/"), "host."),
        ("ws://[fe80::1%25eth0]/", URI(False, "fe80::1%eth0", 80, "/"), "[fe80::1]"),
        ("ws://[fe80::1%eth0]:81/", URI(False, "fe80::1%eth0", 81, "/"), "[fe80::1]:81"),
        ("ws://[fe80::1%25]/", URI(False, "fe80::1%25", 80, "/"), "[fe80::1]"),
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
        ("ws://host:70000/", "cannot be parsed: its port is not a number from 1 to 65535"),
        ("ws://host:0/", "cannot be parsed: its port is not a number from 1 to 65535"),
        ("ws://[::1/", "cannot be parsed"),
        ("ws://host/a b", "has a space or a control character"),
        ("ws://host/a\x7fb", "has a space or a control character"),
        ("ws://host/a\r\nb", "has a space or a control character"),
        ("ws://" + "ü" * 70 + "/", "has a host that is not a domain name"),
        ("ws://" + "u" * 64 + "/", "has a host that is not a domain name"),
        ("ws://" + "u." * 127 + "u/", "has a host that is not a domain name"),
        ("ws://a%62c/", "has a host that is not a domain name"),
        ("ws://a|b/", "has a host that is not a domain name"),
        ("ws://\u2028.example/", "has a host that is not a domain name"),
        ("ws://\ue000.example/", "has a host that is not a domain name"),
        ("ws://[::1]x/", "cannot be parsed: its host is malformed"),
        ("ws://x[::1]/", "cannot be parsed: its host is malformed"),
        ("ws://[fe80::1%25a b]/", "has a space"),
        ("ws://[fe80::1%25a%2Fb]/", "is malformed|not a domain name"),
        ("ws://[fe80::1%a|b]/", "is malformed|not a domain name"),
        ("ws://[fe80::zz]/", "is malformed|not a domain name"),
        ("ws://host/\udc80", "has a lone surrogate, which is no character"),
        ("ws://user\udc80@host/", "has a lone surrogate, which is no character"),
    ],
)
def test_a_bad_uri_is_named_with_what_is_wrong(uri: str, why: str) -> None:
    with pytest.raises(InvalidURI, match=why) as caught:
        parse_uri(uri)
    assert caught.value.why == why or not why.startswith("has a host")
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


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("faß.example", "xn--fa-hia.example"),  # not fass.example, which is another owner's
        ("βόλος.example", "xn--nxasmm1c.example"),
        ("FAẞ.example", "xn--fa-hia.example"),
        ("ｅｘａｍｐｌｅ。com", "example.com"),
        ("MÜNCHEN.de.", "xn--mnchen-3ya.de."),
        ("foo_bar.münchen.de", "foo_bar.xn--mnchen-3ya.de"),
        ("foo_bar.example", "foo_bar.example"),
        ("-a-.ex--ample", "-a-.ex--ample"),
        ("xn--fa-hia.example", "xn--fa-hia.example"),
        ("i❤.ws", "xn--i-7iq.ws"),
        ("☕.example", "xn--53h.example"),
        ("fä_o.example", "xn--f_o-qla.example"),
        ("ab--ä.example", "xn--ab---ooa.example"),
        ("-ä-.example", "xn-----via.example"),
        ("نامه\u200cای.com", "xn--mgba3gch31f060k.com"),
        ("a\u0308" * 20 + ".example", "xn--4ca" + "a" * 19 + ".example"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_host_is_encoded_as_browsers_do(host: str, encoded: str) -> None:
    assert encode_host(host) == encoded
    assert encode_host(encoded) == encoded


@pytest.mark.parametrize(
    "host",
    [
        *("::1%", "::1%a/b", "1:2", "a/b", "[::1]", "a@b", "a\u3002/", "a\uff1a80"),
        "\ue000",  # disallowed
        "\u05d01a",  # it changes its direction
        "\u0301a",  # it begins with a combining character
        "a\u200db",  # a joiner that joins nothing
        "xn--ä",
        "ä" * 64,
        "ä" * 60 + "zzzzzzzzzz",
        "ä." * 127,
        "ä" * 2**14,
    ],
)
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_host(host)


def test_a_certificate_has_neither_the_dot_nor_the_zone() -> None:
    assert certificate_name("host.example.") == "host.example"
    assert certificate_name("fe80::1%eth0") == "fe80::1"


def test_an_origin_is_encoded_as_browsers_do() -> None:
    assert encode_origin("https://faß.example") == "https://xn--fa-hia.example"
    assert encode_origin("https://faß.example:81") == "https://xn--fa-hia.example:81"
    for other in ("null", "https://A.example/", "é\n"):
        assert encode_origin(other) == other
    for bad in ("é", "https://\ufffd.example", "https://é:x"):
        with pytest.raises(ValueError, match=r"has|cannot be parsed"):
            encode_origin(bad)
