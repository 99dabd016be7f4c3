"""What the targets of handshakes.py begin with."""

from __future__ import annotations

from fuzzing.handshakes import SERVERS

REQUEST = b"""GET /chat?x HTTP/1.1\r
Host: server.example\r
Upgrade: websocket\r
Connection: keep-alive, Upgrade\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Protocol: chat, other\r
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r
Origin: https://server.example\r
X-Forwarded-For: 1.2.3.4, 10.0.0.2\r
\r
"""

ANSWER = b"""HTTP/1.1 101 Switching Protocols\r
Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Accept: <accept>\r
Sec-WebSocket-Protocol: chat\r
Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r
\r
"""


def variants(good: bytes, changes: list[tuple[bytes, bytes]]) -> list[bytes]:
    """What is good, in pieces of 16 bytes, too, and with more behind it; and changed once each."""
    out = [b"\0" + good, b"\x10" + good, b"\0" + good + b"more"]
    for old, new in changes:
        assert old in good, old
        out.append(b"\0" + good.replace(old, new, 1))
    return out


OTHER_REQUESTS = [
    (b"GET", b"OPTIONS"),
    (b"GET", b"DELETE"),
    (b"GET", b"\x16\3\1"),
    (b"1.1", b"1.0"),
    (b"1.1", b"2.0"),
    (b"chat?x", b"c" * 9000),
    (b"?x HTTP", b" HTTP"),
    (b"/chat?x", b"http://server.example/chat"),
    (b"Host: server.example", b"Host: other.example:80"),
    (b"Host: server.example", b"Host: 127.0.0.1"),
    (b"Host: server.example\r\n", b""),
    (b"Upgrade: websocket", b"Upgrade: h2c"),
    (b"keep-alive, Upgrade", b"close"),
    (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQ"),
    (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhl"),
    (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff"),
    (b"Version: 13", b"Version: 8"),
    (b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 13"),
    (b"Version: 13", b"Other: 13"),
    (b"chat, other", b"(chat"),
    (b"permessage-deflate; client", b"permessage-deflate; server_no_context_takeover; client"),
    (b"permessage-deflate; client", b"permessage-deflate; client_max_window_bits; client"),
    (b"permessage-deflate", b"x y"),
    (b"Origin: https://server.example", b"Origin: null"),
    (b"Origin: https://server.example", b"Origin: http://other.example"),
    (b"Origin: https://server.example", b"Origin: http://["),
    (b"Origin: https://server.example\r\n", b""),
    (b"Sec-WebSocket-Extensions", b"Other"),
    (b"Host: server.example", b"Host: app.localhost"),
    (b"Host: server.example", b"Host: ["),
    (b"Host: server.example", b"Host: 192.168.0.1"),
    (b"Origin: https://server.example", b"Origin: https://server.example:8443"),
    (b"Origin: https://server.example", b"Origin: a\r\nOrigin: b"),
    (b"Origin: https://server.example", b"Transfer-Encoding: chunked"),
    (b"Origin: https://server.example", b"Content-Length: 1"),
    (b"X-Forwarded-For: 1.2.3.4, 10.0.0.2", b"X-Forwarded-For: 10.0.0.3, x, 10.0.0.2"),
    (b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-For: 10.1.1.1"),
    (b"X-Forwarded-For", b"X" * 70_000),
    (b"X-Forwarded-For", b"X Forwarded"),
]

OTHER_ANSWERS = [
    (b"101", b"200"),
    (b"101", b"700"),
    (b"1.1 101", b"1.0 101"),
    (b"HTTP", b"PTTH"),
    (b"HTTP/1.1 101", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40 + b"HTTP/1.1 101"),
    (b"Upgrade: websocket", b"Upgrade: h2c"),
    (b"Connection: Upgrade", b"Connection: close"),
    (b"<accept>", b"x"),
    (b"Sec-WebSocket-Accept", b"Other"),
    (b"Protocol: chat", b"Protocol: other"),
    (b"Protocol: chat", b"Protocol: chat\r\nSec-WebSocket-Protocol: chat"),
    (b"permessage-deflate", b"other"),
    (b"permessage-deflate", b"permessage-deflate, permessage-deflate"),
    (b"bits=10", b"bits"),
    (b"bits=10", b"bits=99"),
    (b"bits=10", b"bits=10; server_max_window_bits=10"),
    (b"server_max_window_bits", b"unknown"),
    (b"server_max_window_bits=10", b"client_no_context_takeover=1"),
    (b"Connection: Upgrade", b"Content-Length: x"),
    (b"101 Switching Protocols", b"302 Found\r\nLocation: ws://server.example/"),
    (b"101 Switching Protocols", b"302 Found\r\nLocation: http://[/"),
    (b"101 Switching Protocols", b"302 Found\r\nLocation: gopher://x/"),
    (b"101 Switching Protocols", b"308 Permanent\r\nLocation: /other"),
    (b"101 Switching Protocols", b"503 No\r\nContent-Length: 9\r\n\r\nshort"),
    (b"101 Switching Protocols", b"503 No\r\nRetry-After: " + b"x" * 70_000),
]

OFFER = b'permessage-deflate; server_max_window_bits="10"; client_no_context_takeover, x; y'

REQUEST_SEEDS = [
    bytes([server]) + request
    for server in range(len(SERVERS))
    for request in variants(REQUEST, OTHER_REQUESTS)
]

RESPONSE_SEEDS = [
    *variants(ANSWER, OTHER_ANSWERS),
    b"\0" + ANSWER[:50],
    b"\x20HTTP/1.1 103 Early Hints\r\n\r\n" + ANSWER,
    b"\0HTTP/1.1 302 Found\r\nLocation: //h/x?y\r\nContent-Length: 2\r\n\r\nno",
    b"\0HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
]

EXTENSIONS_SEEDS = [
    OFFER,
    b"permessage-deflate; client_max_window_bits=15, , x",
    b"permessage-deflate; server_no_context_takeover; server_max_window_bits=8",
    b"permessage-deflate; server_max_window_bits=11",
    b"permessage-deflate; server_max_window_bits=7",
    b"permessage-deflate; a b",
    b'x; y="',
]

URI_SEEDS = [
    b"ws://user:p%20w@host:80/path?query",
    "wss://[::1]:443/é?ü".encode(),
    b"http://user:password@proxy:3128/",
    b"socks5h://proxy",
    b"socks5://user:password@proxy",
    b"socks4://\xc3\xa9:p@proxy",
    b"socks5://" + b"u" * 300 + b":p@proxy",
    b"http://a%3Ab:p@proxy",
    b"http://proxy/path",
    b"http://:80",
    b"http://proxy:x",
    b"http://\xff",
    b"http://" + b"\xc3\xa9" * 99,
    b"ws://host/#fragment",
    b"ws://host:99999/",
    b"ws://ho st/",
    b"ws://" + b"\xc3\xa9" * 99,
    b"wss://\xc3\xa9.example",
    b"ws://\xff/",
    b"ws://a%3Ab:p@host",
    b"ws:///x",
    b"other",
]

PROXY_SEEDS = [
    b"\0HTTP/1.1 200 OK\r\n\r\n",
    b"\0HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n",
    b"\0HTTP/1.1 100 Continue\r\n\r\n",
    b"\0HTTP/1.1 200 OK\r\n\r\nmore",
    b"\0HTTP/1.1 700 OK\r\n\r\n",
    b"\0HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    b"\0\7garbage\r\n\r\n",
    b"for=10.0.0.1, for=unknown, for=_hidden;x",
    b'for=10.0.0.1, for="10.0.0.2:80"',
    b"for=x;for=y",
    b"x" * 2**14,
    b'for=1.2.3.4;proto=https, for="[2001:db8::1]:80";by=_x',
]
