"""What is done to a server or a client while its CPU time is counted.

The load is plain sockets and frames that were built before, so that only the other side is timed.
A scenario is a context manager: it opens its connections and gives a function that loads the server
for so many seconds and returns how many messages that were.
"""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from creche.protocol.frames import BINARY, TEXT, append_frame
from creche.protocol.handshake import accept_key
from servers import CAST, FEED, FEED_MESSAGES, MESSAGE
from support import REQUEST, connect_socket, open_socket

ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
OFFER = (
    b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
    b"client_no_context_takeover\r\n\r\n"
)
RSV1 = 0x40
KEY = b"\x11\x22\x33\x44"
SMALL = 128

Load = Callable[[float], int]


@dataclass
class Target:
    """A server under load.

    Attributes:
        port: where it listens.
        raw: whether it is an echo of bytes, without WebSocket.
        tls: the context of its clients, None without TLS.
        delays: seconds from a message to its echo, where a scenario takes them.
    """

    port: int
    raw: bool = False
    tls: ssl.SSLContext | None = None
    delays: list[float] = field(default_factory=list)

    def connect(self, request: bytes = REQUEST) -> socket.socket:
        """A connection, open for messages."""
        if self.raw:
            sock = connect_socket(self.port, self.tls)
        else:
            sock = open_socket(self.port, tls=self.tls, request=request)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def frame(self, payload: bytes, opcode: int = BINARY) -> bytes:
        """What the load sends: with a mask."""
        out = bytearray()
        append_frame(out, opcode, payload, KEY)
        return bytes(out)

    def reply_size(self, payload: bytes) -> int:
        """The bytes of the answer: without a mask, but for an echo of bytes."""
        return len(self.frame(payload)) - (0 if self.raw else len(KEY))


class ClientTarget(Target):
    """A client under load: it is told to connect to us, and has the mask.

    Args:
        listener: where it connects to.
        ask: tells it to connect once more.
    """

    def __init__(self, listener: socket.socket, ask: Callable[[], object]) -> None:
        super().__init__(listener.getsockname()[1])
        self._listener = listener
        self._ask = ask

    def connect(self, request: bytes = b"") -> socket.socket:
        self._ask()
        sock, _ = self._listener.accept()
        sock.settimeout(30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(4096)
        key = re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)", head)
        assert key is not None
        sock.sendall(ANSWER % accept_key(key[1].decode()).encode())
        return sock

    def frame(self, payload: bytes, opcode: int = BINARY) -> bytes:
        out = bytearray()
        append_frame(out, opcode, payload)
        return bytes(out)

    def reply_size(self, payload: bytes) -> int:
        return len(self.frame(payload)) + len(KEY)


def read(sock: socket.socket, size: int, buffer: bytearray) -> None:
    while size:
        received = sock.recv_into(buffer, min(size, len(buffer)))
        if not received:
            raise ConnectionError("the server closed the connection")
        size -= received


@contextmanager
def ping_pong(
    target: Target, *, size: int = SMALL, opcode: int = BINARY, times: int = 1
) -> Iterator[Load]:
    """Send `times` messages in one write, wait for all echoes, and again."""
    payload = b"x" * size
    data = target.frame(payload, opcode) * times
    expected = target.reply_size(payload) * times
    with target.connect() as sock:
        yield exchange(target, sock, data, expected, times)


def exchange(target: Target, sock: socket.socket, data: bytes, expected: int, times: int) -> Load:
    """Send what holds so many messages, wait for so many bytes, and again."""
    buffer = bytearray(2**18)

    def load(seconds: float) -> int:
        rounds = 0
        now = time.perf_counter()
        end = now + seconds
        while now < end:
            sock.sendall(data)
            read(sock, expected, buffer)
            before, now = now, time.perf_counter()
            target.delays.append(now - before)
            rounds += 1
        return rounds * times

    return load


@contextmanager
def feed(target: Target) -> Iterator[Load]:
    """Ask for many messages, which the server sends in a loop."""
    data = target.frame(FEED)
    expected = FEED_MESSAGES * target.reply_size(MESSAGE)
    buffer = bytearray(2**18)
    with target.connect() as sock:

        def load(seconds: float) -> int:
            messages = 0
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                sock.sendall(data)
                read(sock, expected, buffer)
                messages += FEED_MESSAGES
            return messages

        yield load


class Crowd:
    """Many connections, of which each waits for its own echo."""

    def __init__(self, stack: ExitStack, target: Target, count: int) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.poll = select.epoll()
        stack.callback(self.poll.close)
        for _ in range(count):
            sock = stack.enter_context(target.connect())
            self.sockets[sock.fileno()] = sock
            self.poll.register(sock, select.EPOLLIN)
        self.buffer = bytearray(2**16)

    def ready(self, seconds: float = 1) -> list[tuple[socket.socket, int]]:
        """The sockets on which something comes within that time, and how many bytes."""
        found = []
        events = self.poll.poll(seconds)
        if seconds and not events:
            raise TimeoutError("the server has stopped to answer")
        for descriptor, _ in events:
            sock = self.sockets[descriptor]
            size = sock.recv_into(self.buffer)
            if not size:
                raise ConnectionError("the server closed the connection")
            found.append((sock, size))
        return found


@contextmanager
def many(target: Target, *, connections: int = 100, idle: int = 0) -> Iterator[Load]:
    """Ping-pong on many connections at a time, beside some that are idle."""
    payload = b"x" * SMALL
    data = target.frame(payload)
    expected = target.reply_size(payload)
    with ExitStack() as stack:
        for _ in range(idle):
            stack.enter_context(target.connect())
        crowd = Crowd(stack, target, connections)

        def load(seconds: float) -> int:
            missing = dict.fromkeys(crowd.sockets.values(), expected)
            for sock in missing:
                sock.sendall(data)
            messages = 0
            end = time.perf_counter() + seconds
            while missing:
                again = time.perf_counter() < end
                for sock, size in crowd.ready():
                    missing[sock] -= size
                    if not missing[sock]:
                        messages += 1
                        if again:
                            missing[sock] = expected
                            sock.sendall(data)
                        else:
                            del missing[sock]
            return messages

        yield load


@contextmanager
def cast(target: Target, *, connections: int = 200) -> Iterator[Load]:
    """Ask for a message to all; each delivery is counted."""
    data = target.frame(CAST)
    expected = target.reply_size(MESSAGE)
    with ExitStack() as stack:
        crowd = Crowd(stack, target, connections)
        first = next(iter(crowd.sockets.values()))
        for sock in crowd.sockets.values():
            # An echo tells that the handler runs; a server knows of its connection only then.
            sock.sendall(target.frame(b"x"))
            read(sock, target.reply_size(b"x"), crowd.buffer)

        def load(seconds: float) -> int:
            messages = 0
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                first.sendall(data)
                missing = expected * connections
                while missing:
                    missing -= sum(size for _, size in crowd.ready())
                messages += connections
            return messages

        yield load


def deflated(payload: bytes) -> bytes:
    """As permessage-deflate has it, without context takeover (RFC 7692 7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@contextmanager
def compressed(target: Target) -> Iterator[Load]:
    """Ping-pong of 4 KiB of JSON, compressed by both sides."""
    rows = [{"id": n, "name": f"item {n * 7919 % 1000}", "price": n / 8} for n in range(90)]
    payload = json.dumps(rows).encode()[:4096]
    data = target.frame(deflated(payload), TEXT | RSV1)
    buffer = bytearray(2**16)
    with target.connect(REQUEST[:-2] + OFFER) as sock:
        sock.settimeout(2)
        sock.sendall(data)
        expected = sock.recv_into(buffer)
        if not (expected and buffer[0] & RSV1):
            raise ConnectionError("the server does not compress")
        # Without context takeover every answer is the same.
        assert expected == 4 + int.from_bytes(buffer[2:4])
        yield exchange(target, sock, data, expected, 1)


@contextmanager
def handshake(target: Target) -> Iterator[Load]:
    """Connect, shake hands, and go. A reset leaves no port in use."""

    def load(seconds: float) -> int:
        count = 0
        linger = struct.pack("ii", 1, 0)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            with connect_socket(target.port, target.tls) as sock:
                sock.sendall(REQUEST)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += sock.recv(4096)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            count += 1
        return count

    yield load


@contextmanager
def paced(target: Target, *, connections: int = 100, interval: float = 0.1) -> Iterator[Load]:
    """Messages at a steady pace on many connections, each every `interval` seconds."""
    payload = b"x" * SMALL
    data = target.frame(payload)
    expected = target.reply_size(payload)
    with ExitStack() as stack:
        crowd = Crowd(stack, target, connections)
        sockets = list(crowd.sockets.values())

        def load(seconds: float) -> int:
            sent: dict[socket.socket, float] = {}
            missing: dict[socket.socket, int] = {}
            messages = 0
            start = time.perf_counter()
            while (now := time.perf_counter()) < start + seconds or missing:
                due = int((now - start) / interval * connections)
                while messages < due and now < start + seconds:
                    sock = sockets[messages % connections]
                    messages += 1
                    if sock not in missing:  # otherwise the server is slower than the pace
                        sent[sock], missing[sock] = time.perf_counter(), expected
                        sock.sendall(data)
                for sock, size in crowd.ready(0):
                    missing[sock] -= size
                    if not missing[sock]:
                        target.delays.append(time.perf_counter() - sent[sock])
                        del missing[sock]
            return messages

        yield load


@dataclass
class Scenario:
    """One column of the table.

    Attributes:
        open: the context manager.
        raw: whether an echo of bytes can take part.
        tls: whether over TLS.
        client: whether it is clients that are timed.
        delays: whether delays are of interest, too.
    """

    open: Callable[[Target], object]
    raw: bool = True
    tls: bool = False
    client: bool = False
    delays: bool = False


SCENARIOS: dict[str, Scenario] = {
    "ping-pong 128 B": Scenario(ping_pong, delays=True),
    "text 128 B": Scenario(partial(ping_pong, opcode=TEXT)),
    "burst": Scenario(partial(ping_pong, times=64)),
    "feed": Scenario(feed, raw=False),
    "100 connections": Scenario(many),
    "64 KiB": Scenario(partial(ping_pong, size=2**16)),
    "1 MiB": Scenario(partial(ping_pong, size=2**20)),
    "handshake": Scenario(handshake, raw=False),
    "broadcast": Scenario(cast, raw=False),
    "paced": Scenario(paced, delays=True),
    "2,000 connections": Scenario(partial(many, connections=2000)),
    "100 beside 10,000 idle": Scenario(partial(many, idle=10_000)),
    "permessage-deflate": Scenario(compressed, raw=False),
    "TLS ping-pong 128 B": Scenario(ping_pong, tls=True),
    "TLS feed": Scenario(feed, raw=False, tls=True),
    "TLS 100 connections": Scenario(many, tls=True),
    "TLS 64 KiB": Scenario(partial(ping_pong, size=2**16), tls=True),
    "TLS handshake": Scenario(handshake, raw=False, tls=True),
    "client ping-pong 128 B": Scenario(ping_pong, client=True),
    "client burst": Scenario(partial(ping_pong, times=64), client=True),
    "client feed": Scenario(feed, client=True),
    "client 64 KiB": Scenario(partial(ping_pong, size=2**16), client=True),
    "client 100 connections": Scenario(many, client=True),
}
