"""What is fuzzed, and what each target begins with.

A target takes any bytes, and has to accept them or to raise what is documented, in bounded time and
memory. `python targets.py` gives each target its seeds, and what else is in the folders named.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from creche.protocol.client_handshake import ClientHandshake
from creche.protocol.closing import POLICY_VIOLATION, make_close
from creche.protocol.connection import Connection
from creche.protocol.deflate import PerMessageDeflate
from creche.protocol.exceptions import HandshakeError, PeerError, Rejection
from creche.protocol.extensions import (
    Extension,
    agree_on,
    choose_from,
    format_offers,
    parse_extensions,
)
from creche.protocol.forwarding import client_key, find_client
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, append_frame
from creche.protocol.handshake import accept_key
from creche.protocol.headers import Headers
from creche.protocol.masking import apply_mask, mask_bytes, mask_words
from creche.protocol.messages import encode_message, message_opcode
from creche.protocol.prepared import PreparedMessage
from creche.protocol.proxies import ConnectHandshake, Proxy, parse_proxy
from creche.protocol.redirects import redirected
from creche.protocol.server_handshake import ServerHandshake, offered_subprotocols
from creche.protocol.states import Side, State
from creche.protocol.uri import parse_uri

MAX_SIZE = 2**16
URI = parse_uri("wss://user:password@server.example/path?query")

# What a server has to answer to the key of each client, whatever that is.
ACCEPT = b"<accept>"


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes, cut where the first one says."""
    size = data[0] if data else 0
    rest = data[1:]
    step = size or len(rest) or 1
    for start in range(0, len(rest), step):
        yield rest[start : start + step]


# The targets


def fuzz_masking(data: bytes) -> None:
    """Masks, from anywhere to anywhere, as the standard has it: byte by byte (RFC 6455 5.3)."""
    if len(data) < 7:
        return
    key, (start, end, offset), payload = data[:4], data[4:7], data[7:]
    stop = len(payload) - end % (len(payload) + 1)
    start = min(start, stop)
    masked = bytes(payload[i] ^ key[(i - start + offset) % 4] for i in range(start, stop))
    for mask in apply_mask, mask_bytes, mask_words:
        out = bytearray(payload)
        mask(out, start, stop, key, offset)
        assert out == payload[:start] + masked + payload[stop:]


class Inverted(Extension):
    """An extension that inverts the bits of messages, to be combined with another."""

    reserved_bits = Extension.RSV2

    def begin(self) -> None:
        self.waiting = b""

    def feed(self, data: bytes) -> None:
        self.waiting += bytes(byte ^ 0xFF for byte in data)

    def finish(self) -> None:
        pass

    def read(self, limit: int) -> bytes:
        read, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return read


# What the first byte of frames says.
CLIENT, PLAIN, IN_PARTS, OBSERVED, DISCARDED, FEW, CHAINED, CLOSING = (1 << bit for bit in range(8))


def fuzz_frames(data: bytes) -> None:
    """Frames of a peer; the first byte says to whom, and what was agreed on."""
    flags = data[0] if data else 0
    _, agreed = choose_from([PerMessageDeflate(threshold=0)], "permessage-deflate")
    if flags & CHAINED:
        agreed.append(Inverted())
    connection = Connection(
        Side.CLIENT if flags & CLIENT else Side.SERVER,
        bytearray(),
        0,
        extensions=() if flags & PLAIN else agreed,
        max_size=MAX_SIZE,
        max_fragments=3 if flags & FEW else None,
        max_queue=4,
        write_limit=0 if flags & FEW else 2**16,
    )
    if flags & OBSERVED:
        connection.observer = lambda *_: None
    if flags & CLOSING:
        connection.send_close(make_close(1000, ""), 0)
    size = 0
    for piece in pieces(data[1:]):
        connection.receive_data(piece, 0)
        for _ in range(100):
            if flags & IN_PARTS:
                part = connection.next_part(0)
                message = part and part[0]
            else:
                message = connection.next_message(0)
                assert message is None or len(message) <= MAX_SIZE
            connection.resume(0)
            if message is None and not connection.must_continue:
                break
        connection.output_left()
        if flags & DISCARDED:
            connection.discard_input()
        size += len(piece)
        # What waits, the inbox, and what one piece of compressed data becomes.
        assert connection.kept() <= size + 2 * MAX_SIZE + 2**20
        assert len(connection.outbox) <= 2 * size + 200
    connection.receive_eof()
    assert connection.ended
    str(connection.received)
    str(connection.failure)


class Peer:
    """One of two ends of a conversation."""

    def __init__(self, side: Side, extensions: list[Extension]) -> None:
        self.connection = Connection(side, bytearray(), 0, extensions=extensions, max_queue=3)
        self.wire = bytearray()  # what it wrote and the other end has not got yet
        self.delivered = 0
        self.sent: list[str | bytes] = []
        self.taken: list[str | bytes] = []
        self.parts: list[str | bytes] = []
        self.discarding = False

    def send(self, how: int, size: int) -> None:
        """A message of some size, in one of the ways to send one."""
        connection = self.connection
        if not connection.can_send:
            return
        message: str | bytes = "é☃"[size % 2] * size if how % 2 else bytes([size]) * (10 * size)
        given: Any = message
        if isinstance(message, bytes):
            given = [message, bytearray(message), memoryview(message * 2)[::2]][size % 3]
            message = bytes(given)
        opcode, payload = message_opcode(given), encode_message(given)
        if how < 2:
            connection.send_message(opcode, payload)
        elif how < 4:
            prepared = PreparedMessage(given)
            encoded = prepared.encode_for(connection.extensions)
            assert encoded is not None
            connection.send_frame(encoded[0], encoded[1])
        else:
            connection.send_frame(opcode, payload[: size // 2], fin=False)
            connection.send_frame(CONTINUATION, payload[size // 2 :])
        self.sent.append(message)

    def control(self, kind: str, argument: int, now: float) -> None:
        connection = self.connection
        if not connection.can_send:
            return
        try:
            if kind == "ping":
                ping = connection.send_ping(None if argument % 2 else bytes(argument), now)
                if argument % 4 == 0:
                    connection.forget_ping(ping)
            elif kind == "pong":
                connection.send_pong(bytes(argument))
            else:
                connection.send_close(make_close(900 + 20 * argument, "é" * (argument % 70)), now)
        except ValueError as exc:
            str(exc)

    def deliver(self, other: Peer, size: int, now: float) -> None:
        """Some of what this end wrote gets to the other, if that reads."""
        self.wire += self.connection.outbox
        self.connection.outbox.clear()
        if other.connection.must_pause():
            return
        piece = bytes(self.wire[:size])
        del self.wire[:size]
        self.delivered += len(piece)
        if piece and other.connection.state is not State.LOST:
            other.connection.receive_data(piece, now)
        self.connection.output_left()

    def take(self, in_parts: bool, now: float) -> None:
        """What there is of a message, or all of it, if it is not being taken in parts already."""
        if in_parts or self.parts:
            part = self.connection.next_part(now)
            if part is not None:
                self.parts.append(part[0])
                if part[1]:
                    self.taken.append(type(part[0])().join(self.parts))  # type: ignore[arg-type]
                    self.parts.clear()
        else:
            message = self.connection.next_message(now)
            if message is not None:
                self.taken.append(message)
        self.connection.resume(now)
        for answered in self.connection.take_answered():
            assert answered.latency is not None


OPERATIONS = (
    *("binary", "text", "prepared-binary", "prepared-text", "binary-fragments", "text-fragments"),
    *("ping", "pong", "close", "deliver", "deliver-all", "take", "wait", "discard", "keepalive"),
    "end",
)


def fuzz_conversation(data: bytes) -> None:
    """Two ends; of each two bytes the first says what which one does, and the second how much."""
    factory = [PerMessageDeflate(threshold=20)]
    answer, chosen = choose_from(factory, format_offers(factory))
    client, server = Peer(Side.CLIENT, agree_on(factory, answer)), Peer(Side.SERVER, chosen)
    now = 0.0
    for what, argument in zip(data[::2], data[1::2], strict=False):
        peer, other = (client, server) if what & 1 else (server, client)
        connection = peer.connection
        number = what >> 1 & 15
        match OPERATIONS[number]:
            case "ping" | "pong" | "close" as kind:
                peer.control(kind, argument, now)
            case "deliver":
                peer.deliver(other, argument, now)
            case "deliver-all":
                peer.deliver(other, 2**14, now)
            case "take":
                peer.take(argument % 2 == 0, now)
            case "wait":
                now += argument / 4
                in_flight = len(connection.outbox) + len(peer.wire)
                if connection.outbox and not connection.timers.is_watching_output():
                    connection.timers.output_waits(now, peer.delivered)
                connection.handle_timeout(now, peer.delivered, in_flight)
                assert connection.next_timeout > now
            case "discard":
                connection.discard_input()
                peer.discarding = True
            case "keepalive":
                connection.timers.set_keepalive(now, (argument + 1) / 10, argument / 20 or None)
                connection.timers.set_paused(connection.must_pause(), now)
            case "end" if argument % 2:
                connection.lose("lost")
            case "end":
                connection.receive_eof()
            case _:
                peer.send(number, argument)
        for one, far in (client, server), (server, client):
            failure = one.connection.failure
            # Nobody breaks the protocol, but a message may take too long.
            assert failure is None or failure.close_code == POLICY_VIOLATION
            assert one.discarding or one.taken == far.sent[: len(one.taken)]
            assert one.connection.kept() < 2**15
            assert one.connection.outcome is None or one.connection.ended


SERVERS: list[dict[str, Any]] = [
    {"hosts": ["server.example", "[::1]"]},
    {"hosts": "loopback", "origins": ["https://server.example", re.compile("http://.*"), None]},
    {"origins": None, "max_header_bytes": 1000},
]


def fuzz_request(data: bytes) -> None:
    """A client's request; the first byte says to which server."""
    options = SERVERS[data[0] % len(SERVERS) if data else 0]
    server = ServerHandshake(subprotocols=["chat"], extensions=[PerMessageDeflate()], **options)
    for piece in pieces(data[1:]):
        try:
            request = server.receive_data(piece)
            if request is None:
                continue
            server.check_host(request)
            offered_subprotocols(request)
            find_client("10.0.0.1", request.headers, ["10.0.0.0/8", "unix"])
            request.headers.pack()
            str(request)
            assert len(request.headers) == len(dict(request.headers))
            assert b" 101 " in server.respond(server.accept(request))[:20]
            assert server.trailing_data in data
        except Rejection as refusal:
            str(refusal)
            assert re.match(rb"HTTP/1.1 (4|505)", server.respond(refusal.response))
        return


def fuzz_response(data: bytes) -> None:
    """A server's answer."""
    asks = bool(data) and data[0] % 2 == 1
    client = ClientHandshake(
        URI,
        subprotocols=["chat"],
        extensions=[PerMessageDeflate(server_no_context_takeover=asks)],
        origin="https://x.example",
        additional_headers={"Cookie": "a=b"},
        user_agent_header="fuzz",
    )
    client.request_bytes()
    accept = accept_key(client.request.headers["Sec-WebSocket-Key"]).encode()
    data = data.replace(ACCEPT, accept)
    try:
        for piece in pieces(data):
            response = client.receive_data(piece)
            if response is not None:
                assert response.status == 101
                assert client.trailing_data in data
                return
        client.receive_eof()
    except HandshakeError as exc:
        str(exc)
        response = getattr(exc, "response", None)
        if response is not None:
            str(response)
            try:
                redirected(URI, response)
            except HandshakeError as exc:
                str(exc)


def fuzz_extensions(data: bytes) -> None:
    """The header, as a server and as a client read it."""
    header = data.decode("latin-1")
    try:
        parse_extensions(header)
        choose_from([PerMessageDeflate()], header)
        agree_on([PerMessageDeflate()], header)
    except HandshakeError as exc:
        str(exc)


def fuzz_inflate(data: bytes) -> None:
    """A compressed message."""
    _, [deflate] = choose_from([PerMessageDeflate()], "permessage-deflate")
    deflate.begin()
    left = MAX_SIZE * 16
    try:
        for piece in pieces(data):
            deflate.feed(piece)
            while left > 0 and (read := deflate.read(1000)):
                assert len(read) <= 1000
                left -= len(read)
        deflate.finish()
        while left > 0 and (read := deflate.read(1000)):
            left -= len(read)
    except PeerError as exc:
        str(exc)


def fuzz_uri(data: bytes) -> None:
    """URIs of servers and of proxies, and where a redirect leads."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_uri, parse_proxy):
        try:
            str(parse(text))
        except HandshakeError as exc:
            str(exc)


def fuzz_proxy(data: bytes) -> None:
    """What a proxy answers, and what proxies say of a client."""
    handshake = ConnectHandshake(Proxy("http", "proxy.example", 80, "u", "p"), "server.example", 80)
    handshake.request_bytes()
    try:
        for piece in pieces(data):
            if handshake.receive_data(piece):
                break
        else:
            handshake.receive_data(b"")
    except HandshakeError as exc:
        str(exc)
    try:
        headers = Headers(
            [("Forwarded", data.decode("latin-1")), ("X-Forwarded-For", "::1, 1.1.1.1")]
        )
    except ValueError:
        return
    assert repr(headers)
    assert find_client("10.0.0.1", headers, []) == "10.0.0.1"
    assert find_client("11.0.0.1", headers, ["10.0.0.0/8", "unix"]) == "11.0.0.1"
    address = find_client("10.0.0.1", headers, ["10.0.0.0/8"])
    assert address is None or find_client(address, headers, []) == address
    assert client_key("10.0.0.1", headers, ["10.0.0.0/8"]) is not None


# What each begins with


def frame(opcode: int, payload: bytes = b"", fin: bool = True, masked: bool = True) -> bytes:
    out = bytearray()
    append_frame(out, opcode, payload, b"\1\2\3\4" if masked else None, fin)
    return bytes(out)


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def some_frames(masked: bool) -> bytes:
    deflated = b"\xf2\x48\xcd\xc9\xc9\x07\x00"  # "Hello" (RFC 7692 7.2.3.1)
    return b"".join(
        [
            frame(TEXT, "é☃🐍".encode(), masked=masked),
            frame(BINARY, b"x" * 130, masked=masked),
            frame(TEXT | 0x40, deflated, masked=masked),
            frame(TEXT | 0x60, bytes(byte ^ 0xFF for byte in deflated), masked=masked),
            frame(TEXT | 0x40, deflated[:3], fin=False, masked=masked),
            frame(PING, b"?", masked=masked),
            frame(CONTINUATION, deflated[3:], masked=masked),
            frame(PONG, masked=masked),
            frame(CLOSE, make_close(1000, "bye").payload(), masked=masked),
        ]
    )


def header(first: int, length: bytes) -> bytes:
    return bytes([first, 0x80 | length[0]]) + length[1:] + b"\1\2\3\4"


BROKEN_FRAMES = [
    frame(TEXT, b"", masked=False),
    frame(3),
    frame(TEXT | 0x20, b"x"),
    frame(PING | 0x40),
    frame(PING, fin=False),
    frame(CONTINUATION, b"x"),
    frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"),
    frame(TEXT, b"\xe2\x28"),
    frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x28"),
    frame(TEXT, b"x" * 40, fin=False) + frame(CONTINUATION, b"\xe2"),
    frame(TEXT | 0x40, b"\xff\xff"),
    *(frame(CLOSE, payload) for payload in (b"", b"x", b"\3\xed", b"\3\xe8\xff", b"\x0b\xb8")),
    frame(CLOSE, b"\x0f\xa0") + frame(TEXT, b"late"),
    header(0x89, b"\x7e\0\x7e"),
    header(0x81, b"\x7e\0\x7d"),
    header(0x82, b"\x7f\0\0\0\0\0\0\xff\xff"),
    header(0x82, b"\x7f\xff\0\0\0\0\1\0\0"),
    header(0x82, b"\x7f\0\0\0\0\0\1\0\0") + b"x" * 99,
    header(0x82, b"\x7f\0\0"),
    frame(BINARY, bytes(MAX_SIZE // 2), fin=False) + frame(CONTINUATION, bytes(MAX_SIZE)),
    frame(TEXT | 0x40, deflate(bytes(2**21))),
    frame(TEXT | 0x40, deflate(bytes(2**21))[:500], fin=False),
    frame(PING, b"?") * 99 + frame(TEXT, b"x") * 9,
    frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 99,
]


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


def program(steps: str) -> bytes:
    """A conversation, of steps such as "client text 50"."""
    out = bytearray()
    for step in filter(None, map(str.strip, steps.split(","))):
        side, operation, argument = step.split()
        out += bytes([OPERATIONS.index(operation) << 1 | (side == "client"), int(argument)])
    return bytes(out)


EACH_MESSAGE = "".join(f"client {how} 50, server {how} 50," for how in OPERATIONS[:6])
CONVERSATIONS = [
    EACH_MESSAGE
    + "client deliver 3, client deliver 255, client deliver-all 0, server deliver-all 0,"
    + "server take 1, server take 0, server take 0, client take 1, server take 1," * 9,
    # Pings, that are answered and forgotten, and two that cannot be sent.
    "client ping 1, client ping 2, client ping 2, client ping 4, client ping 200, server pong 9,"
    "client deliver-all 0, server deliver-all 0, client wait 1",
    # Closing by both at once, by one, and with what may not be sent.
    "client close 5, server close 200, client deliver-all 0, server deliver-all 0",
    "client close 0, client close 69, client text 9, client deliver 5, client deliver-all 0,"
    "server text 9, server deliver-all 0, client end 0, server end 0, server end 1",
    "client text 9, client close 200, client deliver-all 0, server wait 200, client wait 200",
    # Silence, and pings that are not answered; a peer that takes nothing.
    "client wait 90, server wait 90, client wait 90, client wait 90, client wait 90",
    "client keepalive 9, client wait 5, client deliver-all 0, client wait 5, client wait 9",
    "client keepalive 9, client wait 5, client deliver-all 0, server deliver-all 0, client wait 1,"
    "client wait 1, client wait 2, server ping 1, server deliver-all 0, client wait 3",
    "client keepalive 9, client wait 5, client wait 5, server keepalive 0, server wait 9,"
    "server wait 9, server deliver-all 0",
    "server text 200, server wait 99, server wait 99, server wait 99, client close 5, client end 0",
    # A message that is never finished; one that nobody takes; one dropped while it arrives.
    "client binary-fragments 255, client deliver 30, server take 1, server wait 250, server take 1,"
    "server wait 250, server deliver-all 0, client deliver-all 0",
    "client text-fragments 99, client deliver 60, server discard 0, client deliver-all 0",
    "client binary 255," * 9 + "client deliver 200, server discard 0, client deliver-all 0,",
    "client text 99, server wait 2, server text 255, server wait 4, server deliver 9,"
    "server wait 40, server wait 9, server deliver-all 0, server wait 99, client deliver 5,"
    "server wait 241, server close 5, server take 1, server take 1",
    "client text 9," * 9 + "client deliver-all 0, server keepalive 9, server wait 250,"
    "server take 0, server take 1, server keepalive 9, server end 0",
]

TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "frames": (
        fuzz_frames,
        [
            # With all that the first byte may say but CLOSING, which is for the fuzzer to find.
            *(bytes([flags, 0]) + some_frames(True) for flags in range(0, 128, 2)),
            *(bytes([flags, 7]) + some_frames(False) for flags in range(1, 128, 2)),
            *(
                bytes([flags, 0]) + broken
                for broken in BROKEN_FRAMES
                for flags in (0, IN_PARTS, FEW, DISCARDED)
            ),
        ],
    ),
    "conversation": (fuzz_conversation, [program(steps) for steps in CONVERSATIONS]),
    "masking": (
        fuzz_masking,
        [bytes([1, 2, 3, 4, start, 3, start]) + bytes(range(100)) for start in range(9)],
    ),
    "request": (
        fuzz_request,
        [
            bytes([server]) + request
            for server in range(len(SERVERS))
            for request in variants(REQUEST, OTHER_REQUESTS)
        ],
    ),
    "response": (
        fuzz_response,
        [
            *variants(ANSWER, OTHER_ANSWERS),
            b"\0" + ANSWER[:50],
            b"\x20HTTP/1.1 103 Early Hints\r\n\r\n" + ANSWER,
            b"\0HTTP/1.1 302 Found\r\nLocation: //h/x?y\r\nContent-Length: 2\r\n\r\nno",
            b"\0HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        ],
    ),
    "extensions": (
        fuzz_extensions,
        [
            OFFER,
            b"permessage-deflate; client_max_window_bits=15, , x",
            b"permessage-deflate; server_no_context_takeover; server_max_window_bits=8",
            b"permessage-deflate; server_max_window_bits=11",
            b"permessage-deflate; server_max_window_bits=7",
            b"permessage-deflate; a b",
            b'x; y="',
        ],
    ),
    "inflate": (
        fuzz_inflate,
        [b"\0\xf2\x48\xcd\xc9\xc9\x07\x00", b"\1\xf3\x48\xcd\xc9\xc9\x07\x00\0"],
    ),
    "uri": (
        fuzz_uri,
        [
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
        ],
    ),
    "proxy": (
        fuzz_proxy,
        [
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
        ],
    ),
}


def replay(folders: list[Path]) -> None:
    """Give each target its seeds, and the files of its folder in each of `folders`."""
    for name, (target, seeds) in TARGETS.items():
        files = [file for folder in folders for file in sorted((folder / name).glob("*"))]
        inputs = [*seeds, *(file.read_bytes() for file in files)]
        for data in inputs:
            target(data)
        print(f"{name}: {len(inputs)} inputs", flush=True)


if __name__ == "__main__":
    replay([Path(argument) for argument in sys.argv[1:]])
