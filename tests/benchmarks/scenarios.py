"""What is done to a server or a client while its CPU time is counted.

The load is plain sockets and frames that were built before, so that only the other side is timed.
A scenario is a context manager: it opens its connections and gives a function that loads the server
for as long as it is told to, and returns how many messages that were.
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
from itertools import count, cycle, islice

from creche.handshake.rules import accept_key
from creche.protocol.frames import BINARY, CLOSE, TEXT, append_frame
from servers import CAST, FEED, FEED_MESSAGES, MESSAGE
from support import REQUEST, connect_socket, open_socket

ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
TAKEOVER = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
NO_TAKEOVER = (
    b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
    b"client_no_context_takeover\r\n\r\n"
)
RSV1 = 0x40
KEY = b"\x11\x22\x33\x44"
NORMAL_CLOSURE = b"\x03\xe8"
SMALL = 128

# Asked before each turn of a load: whether there is to be one more.
More = Callable[[], bool]
Load = Callable[[More], int]


def for_seconds(seconds: float) -> More:
    """For so long from now on."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


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

    def load(more: More) -> int:
        rounds = 0
        while more():
            start = time.perf_counter()
            sock.sendall(data)
            read(sock, expected, buffer)
            target.delays.append(time.perf_counter() - start)
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

        def load(more: More) -> int:
            messages = 0
            while more():
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

        def load(more: More) -> int:
            missing = dict.fromkeys(crowd.sockets.values(), expected)
            for sock in missing:
                sock.sendall(data)
            messages = 0
            while missing:
                again = more()
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

        def load(more: More) -> int:
            messages = 0
            while more():
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


def json_payloads() -> Iterator[bytes]:
    """4 KiB of JSON, and again with other numbers."""
    for start in count(step=90):
        numbers = range(start, start + 90)
        rows = [{"id": n, "name": f"item {n * 7919 % 1000}", "price": n / 8} for n in numbers]
        yield json.dumps(rows).encode()[:4096]


@contextmanager
def compressed(target: Target, *, takeover: bool = False) -> Iterator[Load]:
    """Ping-pong of 4 KiB of JSON, compressed by both sides.

    With context takeover an answer refers to those before it. The load sends 16 messages in turn,
    which are more than the window of 32 KiB holds, and its own do not refer to each other.
    """
    payloads = islice(json_payloads(), 16 if takeover else 1)
    frames = cycle([target.frame(deflated(payload), TEXT | RSV1) for payload in payloads])
    buffer = bytearray(2**16)
    offer = TAKEOVER if takeover else NO_TAKEOVER
    with target.connect(REQUEST[:-2] + offer) as sock:

        def load(more: More) -> int:
            messages = 0
            while more():
                sock.sendall(next(frames))
                head = bytearray(4)
                read(sock, 4, head)
                if not head[0] & RSV1:
                    raise ConnectionError("the server does not compress")
                if head[1] != 126:  # so little of 4 KiB is a reference to an answer before
                    raise ConnectionError("the server takes over its context, though told not to")
                read(sock, int.from_bytes(head[2:]), buffer)
                messages += 1
            return messages

        yield load


@contextmanager
def handshake(target: Target) -> Iterator[Load]:
    """Connect, shake hands, and go. A reset leaves no port in use."""

    def load(more: More) -> int:
        count = 0
        linger = struct.pack("ii", 1, 0)
        while more():
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
def open_and_close(target: Target) -> Iterator[Load]:
    """Shake hands, and close by the closing handshake, which our side begins."""
    goodbye = target.frame(NORMAL_CLOSURE, CLOSE)
    answer = target.reply_size(NORMAL_CLOSURE)
    buffer = bytearray(2**12)

    def load(more: More) -> int:
        count = 0
        while more():
            with target.connect() as sock:
                sock.sendall(goodbye)
                read(sock, answer, buffer)
                if isinstance(target, ClientTarget):  # the server's side ends the TCP connection
                    sock.shutdown(socket.SHUT_WR)
                if sock.recv_into(buffer):
                    raise ConnectionError("there is more after the close frame")
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

        def load(more: More) -> int:
            sent: dict[socket.socket, float] = {}
            missing: dict[socket.socket, int] = {}
            messages = 0
            start = time.perf_counter()
            while (going := more()) or missing:
                due = int((time.perf_counter() - start) / interval * connections)
                while messages < due and going:
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
    "opening and closing": Scenario(open_and_close, raw=False),
    "broadcast": Scenario(cast, raw=False),
    "paced": Scenario(paced, delays=True),
    "2,000 connections": Scenario(partial(many, connections=2000)),
    "100 beside 10,000 idle": Scenario(partial(many, idle=10_000)),
    "permessage-deflate": Scenario(compressed, raw=False),
    "context takeover": Scenario(partial(compressed, takeover=True), raw=False),
    "TLS ping-pong 128 B": Scenario(ping_pong, tls=True),
    "TLS burst": Scenario(partial(ping_pong, times=64), tls=True),
    "TLS feed": Scenario(feed, raw=False, tls=True),
    "TLS 100 connections": Scenario(many, tls=True),
    "TLS 64 KiB": Scenario(partial(ping_pong, size=2**16), tls=True),
    "TLS handshake": Scenario(handshake, raw=False, tls=True),
    "TLS opening and closing": Scenario(open_and_close, raw=False, tls=True),
    "client ping-pong 128 B": Scenario(ping_pong, client=True),
    "client burst": Scenario(partial(ping_pong, times=64), client=True),
    "client feed": Scenario(feed, client=True),
    "client 64 KiB": Scenario(partial(ping_pong, size=2**16), client=True),
    "client 100 connections": Scenario(many, client=True),
    "client opening and closing": Scenario(open_and_close, client=True),
}
