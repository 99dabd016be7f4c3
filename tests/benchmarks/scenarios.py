"""What clients do to a server while its CPU time is counted.

The load is plain sockets and frames that were built before, so that the server is what is timed.
A scenario is a context manager: it opens its connections and gives a function that loads the server
for so many seconds and returns how many messages that were.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from creche.protocol.frames import BINARY, TEXT, append_frame
from servers import CAST, FEED, FEED_MESSAGES, MESSAGE
from support import REQUEST, connect_socket, open_socket

KEY = b"\x11\x22\x33\x44"
SMALL = 128

Load = Callable[[float], int]


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """As a client sends it."""
    out = bytearray()
    append_frame(out, opcode, payload, KEY)
    return bytes(out)


def reply_size(payload: bytes) -> int:
    """Of the frame in which a server sends it."""
    out = bytearray()
    append_frame(out, BINARY, payload)
    return len(out)


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

    def connect(self) -> socket.socket:
        if self.raw:
            sock = connect_socket(self.port, self.tls)
        else:
            sock = open_socket(self.port, tls=self.tls)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def reply_size(self, payload: bytes) -> int:
        return len(frame(payload)) if self.raw else reply_size(payload)


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
    data = frame(payload, opcode) * times
    expected = target.reply_size(payload) * times
    buffer = bytearray(2**18)
    with target.connect() as sock:

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

        yield load


@contextmanager
def feed(target: Target) -> Iterator[Load]:
    """Ask for many messages, which the server sends in a loop."""
    data = frame(FEED)
    expected = FEED_MESSAGES * reply_size(MESSAGE)
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
    data = frame(payload)
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
    data = frame(CAST)
    expected = reply_size(MESSAGE)
    with ExitStack() as stack:
        crowd = Crowd(stack, target, connections)
        first = next(iter(crowd.sockets.values()))
        for sock in crowd.sockets.values():
            # An echo tells that the handler runs; a server knows of its connection only then.
            sock.sendall(frame(b"x"))
            read(sock, reply_size(b"x"), crowd.buffer)

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
    data = frame(payload)
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
        delays: whether delays are of interest, too.
    """

    open: Callable[[Target], object]
    raw: bool = True
    tls: bool = False
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
    "TLS ping-pong 128 B": Scenario(ping_pong, tls=True),
    "TLS feed": Scenario(feed, raw=False, tls=True),
    "TLS 100 connections": Scenario(many, tls=True),
    "TLS 64 KiB": Scenario(partial(ping_pong, size=2**16), tls=True),
    "TLS handshake": Scenario(handshake, raw=False, tls=True),
}
