"""A target that is what people write in options and variables, and what clients ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from creche.handshake.forwarding import check_trusted_proxies, client_key, find_client
from creche.handshake.headers import Headers
from creche.handshake.proxies import bypasses
from creche.handshake.redaction import shown_authority, shown_path, without_secrets
from creche.handshake.rules import check_additional, check_subprotocols, check_switching
from creche.handshake.server import check_hosts, check_origins
from creche.handshake.targets import origin_host, parse_authority, parse_target
from creche.handshake.uri import encode_host, encode_origin
from creche.protocol.escaping import escape, quote

CHECKS: tuple[Callable[[str], Any], ...] = (
    encode_host,
    encode_origin,
    origin_host,
    parse_authority,
    parse_target,
    check_trusted_proxies,
    check_subprotocols,
    lambda text: check_hosts([text]),
    lambda text: check_hosts(text),
    lambda text: check_origins([text]),
    lambda text: check_origins(text),
    lambda text: check_trusted_proxies([text]),
    lambda text: check_subprotocols(text.split(",")),
    lambda text: check_additional("additional_headers", [(text, "value")]),
    lambda text: check_additional("additional_headers", [("X", text)]),
    lambda text: check_switching(Headers([(text, "value")])),
    lambda text: use(Headers([(text, "a"), ("Set-Cookie", text), ("set-cookie", "b")])),
)


def use(headers: Headers) -> None:
    """What is looked up, before and after packing."""
    for _ in range(2):
        assert headers.get_all("Set-Cookie")[-1] == "b"
        assert headers["set-cookie"].endswith("b")
        assert "x-none" not in headers
        assert len(headers) == len(list(headers))
        assert repr(headers)
        headers.pack()
    headers.add("X-None", "c")
    assert headers["x-none"].endswith("c")


def fuzz_names(data: bytes) -> None:
    """Each check takes it, or says what is wrong; what is shown of it is shown in a line."""
    text = data.decode("utf-8", "surrogateescape")
    for check in CHECKS:
        try:
            check(text)
        except (TypeError, ValueError) as exc:
            str(exc)
    for shown in (escape(text), quote(text), escape(shown_path(text)), shown_authority(text)):
        assert len(shown) <= 10 * len(text) + 10
    assert without_secrets(without_secrets(text)) == without_secrets(text)
    for host in ("10.0.0.1", "::1", "name.example", "127.1"):
        bypasses(text, host, 80)
    forwarded = [("Forwarded", text), ("Forwarded", f'for="[::1]:80", {text}')]
    for fields in (forwarded, [("X-Forwarded-For", text)]):
        try:
            headers = Headers(fields)
        except ValueError:
            continue
        for peer in ("10.0.0.1", "::ffff:10.0.0.1", None):
            find_client(peer, headers, ["10.0.0.0/8", "unix"])
            client_key(peer, headers, ["10.0.0.0/8", "unix"])


SEEDS = [
    *("a.example", "*.a.example", "A.Example.", "[::1]", "::1", "0:0:0:0:0:0:0:1", "127.1", "*"),
    *("a.example:80", "user:pw@a", "http://a", "loopback", "", "fa\u00df.example", "\u2603", "-a"),
    *("https://a.example", "https://a.example:443", "https://a.example/", "https://[::1]:1"),
    *("a.example/path", "https://a.example/path", "https://u:p@a", "null", "ftp://x", "https://"),
    *("/path?query", "/%61%2f%zz%", "http://a/b?c", "ws://[::1]:1?x", "*", "/a#b", "a:80", "//a/b"),
    *("10.0.0.0/8", "10.0.0.1/8", "unix", "fd00::/8", "::ffff:10.0.0.0/104", "0/0", "10/8"),
    *("10.0.0.0/8,[::1]:80, .name.example", "*.example name", "[fd00::]/8", "[::1]/128:80", "*"),
    *("for=1.1.1.1", 'for="[::1]:80";by=x, for=10.0.0.1', 'for="', "for=_hidden, for=unknown"),
    *("1.1.1.1, 10.0.0.1", "::1, nonsense", "1.1.1.1:80", "[::1]:80, 10.0.0.2"),
    *("Host", "Content-Length", "Sec-WebSocket-Key", "X-Api-Key", "chat,superchat", "a,a", "a b"),
    *("\x1b[2J\u202e\n", "x" * 300, "ws://user:secret@host/?q#f", "u:secret/x@h"),
]
NAMES_SEEDS = [text.encode() for text in SEEDS]
