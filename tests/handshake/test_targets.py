from __future__ import annotations

import pytest

from creche.handshake.targets import Authority, origin_host, parse_authority, parse_target
from support import assert_linear


@pytest.mark.parametrize(
    ("target", "authority", "path"),
    [
        ("/", None, "/"),
        ("/chat?x=1", None, "/chat?x=1"),
        ("/chat?a?b=/x%41", None, "/chat?a?b=/x%41"),
        # A path is a path, however it looks.
        ("//evil.example/admin", None, "//evil.example/admin"),
        ("//[", None, "//["),
        ("/http://x/", None, "/http://x/"),
        # A URI.
        ("ws://host/chat", "host", "/chat"),
        ("WSS://host:1/chat?x", "host:1", "/chat?x"),
        ("http://host", "host", "/"),
        ("https://host?x=/", "host", "/?x=/"),
        ("http://user@host//x", "user@host", "//x"),
        ("http:///x", "", "/x"),
        # One way to write a path.
        ("/%61dm%69n%2D%2e%5f%7E", None, "/admin-._~"),
        ("/%2fadmin%c3%a9%3f", None, "/%2Fadmin%C3%A9%3F"),
        ("/jobs%3Acancel%2b%40%21", None, "/jobs:cancel+@!"),
        ("/%22%3c%5B%5c%7C", None, '/"<[\\|'),
        ("/%20%23%25%7f%00", None, "/%20%23%25%7F%00"),
        ("/%2561%252f", None, "/%2561%252f"),
        # A "%" that escapes nothing makes no escape of what follows.
        ("/%%61%6", None, "/%25a%256"),
        ("/%%36%31", None, "/%2561"),
        ("/%%361", None, "/%2561"),
        ("/%", None, "/%25"),
    ],
)
def test_a_target_is_taken_apart(target: str, authority: str | None, path: str) -> None:
    assert parse_target(target) == (authority, path)


@pytest.mark.parametrize(
    "target",
    [
        *("*", "host:443", "admin", "http:admin", "http:/admin", "foo:/admin", "foo://host/admin"),
        *("?x", "", "/a#b", "/a?b#c", "ws://host/#", "ws://host#x"),
    ],
)
def test_what_is_no_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        parse_target(target)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("Example.COM", "example.com", None),
        ("example.com:8080", "example.com", 8080),
        ("example.com:", "example.com", None),
        ("example.com:000080", "example.com", 80),
        ("example.com:0", "example.com", 0),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("[0:0:0:0:0:0:0:1]", "::1", None),
        ("[fe80::1%25eth0]", "fe80::1", None),
        ("a_b.x-y~z", "a_b.x-y~z", None),
        ("a..b", "a..b", None),
        (".", ".", None),
    ],
)
def test_an_authority_is_taken_apart(text: str, host: str, port: int | None) -> None:
    assert parse_authority(text) == Authority(host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":80", "a:b", "a:-1", "a:65536", "a:" + "9" * 10_000, "user@host", "a b", "a/b"),
        *("a?b", "a#b", "a,b c", "h\xe9", "[", "[]", "[::1", "::1", "[::g]", "[1.2.3.4]"),
        *("[::1]x", "[v1.a]", "a\\b", '"a"', "<a>", "a:1:2"),
    ],
)
def test_what_is_no_authority_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_authority(text)


def test_the_host_of_an_origin() -> None:
    assert origin_host("https://Example.com:8080") == "example.com"
    assert origin_host("http://[::1]:1") == "::1"
    for origin in ("null", "http://", "http://[", "example.com", "http://a@b", "http://a b"):
        assert origin_host(origin) is None


@pytest.mark.parametrize("pattern", ["a", "%61", "%2f", "%", "/", ":", "a:", "[", "0", "."])
def test_a_target_and_an_authority_cost_in_proportion(pattern: str) -> None:
    def parse(text: str) -> None:
        parse_target("/" + text)
        origin_host("http://" + text)
        for each in (text, f"a:{text}", f"[{text}]"):
            assert origin_host(f"{each}://{each}") is None or each

    parse(pattern * 2**20)  # a second look at each byte for every other would take hours
    assert_linear(lambda size: pattern * size, parse)
