"""The target that is TLS records: what comes from the kernel, cut for OpenSSL."""

from __future__ import annotations

import itertools
import ssl
from typing import Any

from fuzzing import builds
from fuzzing.buffers import exact_bytes, limit
from fuzzing.builds import Build
from fuzzing.choices import Choices, Fuzzed, one_of, rarely

INSTALLED = builds.installed()
PURE = builds.pure()

LARGEST = 2**14 + 2048
LENGTHS = (
    *(0, 1, 2, 100, 255, 256, 2**11 - 6, 2**11 - 5, 2**11 - 4, 2**14, 2**14 + 256),
    *(LARGEST - 1, LARGEST, LARGEST + 1, 2**15 - 1, 2**15, 2**16 - 1),
)


class Kernel:
    """A socket that gives what it is told to, and behind it what was there before."""

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.pieces: list[bytes] = []
        self.over = False
        self.sent = b""
        self.room: list[int] = []  # how much it takes, each time

    def setblocking(self, flag: bool) -> None:
        pass

    def recv_into(self, target: bytearray | memoryview) -> int:
        if not self.pieces:
            if self.over:
                return 0
            raise BlockingIOError
        piece = self.pieces.pop(0)
        limit(self.buffer, len(self.buffer))
        with memoryview(target) as view:
            size = min(len(piece), len(view))
            if len(piece) > size:
                self.pieces.insert(0, piece[size:])
            view[:size] = piece[:size]
            limit(self.buffer, len(self.buffer) - len(view) + size)
        return size

    def send(self, data: bytes) -> int:
        size = self.room.pop(0) if self.room else len(data)
        if size == 0:
            raise BlockingIOError
        self.sent += data[:size]
        return min(size, len(data))

    def sendmsg(self, records: list[bytes]) -> int:
        return self.send(b"".join(records))


class OpenSSL:
    """What is told of each record, and gives all of it as if it had been decrypted.

    What it writes has five bytes in front of it.
    """

    def __init__(self) -> None:
        self.fed: list[bytes] = []
        self.waiting = b""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **_: object) -> OpenSSL:
        self.incoming, self.outgoing = incoming, outgoing
        return self

    def write(self, data: bytes | memoryview) -> int:
        assert 0 < len(data) <= 2**14
        self.outgoing.write(b"\x17\3\3" + len(data).to_bytes(2, "big") + bytes(data))
        return len(data)

    def read(self, size: int, buffer: bytearray | memoryview) -> int:
        if not self.waiting:
            self.waiting = self.incoming.read()
            if not self.waiting:
                raise ssl.SSLEOFError if self.incoming.eof else ssl.SSLWantReadError
            self.fed.append(self.waiting)
        count = min(size, len(self.waiting))
        buffer[:count] = self.waiting[:count]
        self.waiting = self.waiting[count:]
        return count

    def pending(self) -> int:
        return len(self.waiting)


def some_records(choices: Choices) -> list[bytes]:
    """What arrives at once, each time."""
    data = b""
    for _ in range(choices.number(1, 6)):
        kind = choices.number(0, 255) if rarely(choices, 16) else choices.number(20, 24)
        version = choices.number(0, 4) if rarely(choices, 16) else 3
        length = one_of(choices, LENGTHS) if rarely(choices, 3) else choices.number(0, 300)
        data += bytes([kind, version, choices.number(0, 4)]) + length.to_bytes(2, "big")
        data += bytes([choices.number(0, 255)]) * length
    data = data[: len(data) - one_of(choices, (0, 0, choices.number(0, 6)))]
    ends = {min(choices.number(0, 2**16 - 1) % 300, len(data)) for _ in range(choices.number(0, 3))}
    ends |= {max(0, len(data) - choices.number(0, 9)) for _ in range(choices.number(0, 1))}
    places = [0, *sorted(ends), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places) if a < b]


def receive(
    build: Build, pieces: list[bytes], sizes: list[int], keeping: int
) -> tuple[list[object], list[bytes]]:
    """What the socket's caller sees, and OpenSSL."""
    buffer = bytearray(5 + LARGEST + 2**17)
    shared = memoryview(buffer)
    build.tls.tls_buffer = lambda: shared  # type: ignore[attr-defined]
    kernel, openssl = Kernel(buffer), OpenSSL()
    sock: Any = build.tls.TLSSocket(kernel, openssl)
    log: list[object] = []
    for number, piece in enumerate(pieces):
        kernel.pieces.append(piece)
        kernel.over = number == len(pieces) - 1
        for size in sizes:
            into = bytearray(size)
            try:
                count = sock.recv_into(into, size)
                log.append((count, bytes(into[:count])))
            except (OSError, ssl.SSLError) as exc:
                log.append(type(exc).__name__)
                break
            finally:
                log.append(sock.pending())
        if number % keeping == 0:
            sock.keep()
            # Another connection has used the buffer since then.
            limit(buffer, len(buffer))
            shared[:200] = b"\x17\x03\x03\x00\x05hello" * 20
            log.append(sock.pending())
    return log, openssl.fed


def send(build: Build, content: bytes, room: list[int]) -> tuple[list[object], bytes]:
    """What the caller sees who sends, and what gets to the kernel."""
    build.tls.tls_buffer = lambda: memoryview(bytearray(1))  # type: ignore[attr-defined]
    kernel, openssl = Kernel(bytearray()), OpenSSL()
    kernel.room = list(room)
    sock: Any = build.tls.TLSSocket(kernel, openssl)
    log: list[object] = []
    while content:
        try:
            count = sock.send(exact_bytes(content))
        except ssl.SSLWantWriteError:
            log.append("wait")
            continue
        log.append(count)
        content = content[count:]
    return log, kernel.sent


def check_send(choices: Choices) -> None:
    size = one_of(choices, (1, 100, 2**14 - 1, 2**14, 2**14 + 1, 5 * 2**14, 5 * 2**14 + 1, 2**17))
    content = bytes([choices.number(0, 255)]) * size
    room = [one_of(choices, (0, 1, 100, 2**14, 2**16)) for _ in range(choices.number(0, 5))]
    log, sent = send(INSTALLED, content, room)
    assert (log, sent) == send(PURE, content, room)
    got = b""
    while sent:
        length = int.from_bytes(sent[3:5], "big")
        got, sent = got + sent[5 : 5 + length], sent[5 + length :]
    assert got == content


def fuzz_records(data: bytes) -> None:
    """Records of any length, cut anywhere; what is none is left to OpenSSL."""
    choices = Fuzzed(data)
    check_send(choices)
    pieces = some_records(choices)
    sizes = [one_of(choices, (2**16, 2**16, 2**14, 1, 100)) for _ in range(8)]
    keeping = choices.number(1, 3)
    log, fed = receive(INSTALLED, list(pieces), sizes, keeping)
    assert (log, fed) == receive(PURE, list(pieces), sizes, keeping)
    stream = b"".join(pieces)
    place = 0
    for chunk in fed:
        assert stream.startswith(chunk, place)
        if 20 <= chunk[0] <= 24 and len(stream) >= place + 5 and stream[place + 1] == 3:
            length = int.from_bytes(stream[place + 3 : place + 5], "big")
            whole = len(stream) - place >= 5 + length
            if length <= LARGEST and whole:
                assert len(chunk) == 5 + length, (len(chunk), length)
        place += len(chunk)
