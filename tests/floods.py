"""What a flood costs everybody else: `python tests/floods.py` (or `nox -s floods`).

For each kind of flood, a server process is flooded by another process while an honest connection
goes on to send and to wait for its echo. Printed are by how much the server's memory grew and the
99th percentile of the honest connection's delay, as a multiple of what it was without the flood.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

import creche
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, append_frame
from support import (
    BACKENDS,
    REQUEST,
    echo,
    open_socket,
    pin,
    raise_descriptor_limit,
    resident_memory,
)

KEY = b"\1\2\3\4"
MESSAGE = bytearray()
append_frame(MESSAGE, BINARY, b"x" * 122, KEY)
ECHO_SIZE = 2 + 122
# The honest connection sends so many messages a second.
RATE = 500


# The server


def serve(backend: str, descriptors: int) -> None:
    pin(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    async def main() -> None:
        async with creche.serving(echo, "127.0.0.1", logger=quiet) as server:
            print(server.addresses[0][1], flush=True)
            await anyio.to_thread.run_sync(sys.stdin.read)

    import logging

    quiet = logging.getLogger("quiet")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    anyio.run(main, **BACKENDS[backend])


@contextmanager
def server_process(backend: str, descriptors: int) -> Iterator[tuple[int, int]]:
    """A server; its process and its port."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", backend, str(descriptors)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


# The floods: each is called again and again, with a socket that is connected to the server, until
# the time is over. A server that has had enough of it resets it, and it comes again.


def frames(count: int, *kinds: tuple[int, bytes, bool]) -> bytes:
    out = bytearray()
    for opcode, payload, fin in kinds:
        append_frame(out, opcode, payload, KEY, fin)
    return bytes(out) * count


def send_for_ever(first: bytes, data: bytes, read: bool) -> Callable[[int, float], None]:
    def flood(port: int, end: float) -> None:
        with open_socket(port) as sock:
            sock.settimeout(1)
            sock.sendall(first)
            while time.monotonic() < end:
                try:
                    sock.sendall(data)
                except TimeoutError:
                    if not read:
                        time.sleep(0.1)
                while read:
                    try:
                        if not sock.recv(65536, socket.MSG_DONTWAIT):
                            return
                    except BlockingIOError:
                        break

    return flood


held: list[socket.socket] = []


def half_open(port: int, end: float) -> None:
    """Handshakes that are begun and never finished, 3,000 of them at a time."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(REQUEST[:60])
    held.append(sock)
    if len(held) > 3000:
        held.pop(0).close()


def hold(port: int, end: float) -> None:
    """Connections that do nothing, until the server has no descriptors left, and beyond."""
    if len(held) < 1000:
        sock = socket.create_connection(("127.0.0.1", port))
        held.append(sock)
    else:
        time.sleep(0.1)


def scan(port: int, end: float) -> None:
    socket.create_connection(("127.0.0.1", port)).close()


EMPTY = (CONTINUATION, b"", False)
FLOODS: dict[str, tuple[Callable[[int, float], None], int]] = {
    "pings": (send_for_ever(b"", frames(5000, (PING, b"", True)), True), 4096),
    "pings, answers unread": (send_for_ever(b"", frames(5000, (PING, b"", True)), False), 4096),
    "pings of 125 bytes": (send_for_ever(b"", frames(500, (PING, b"p" * 125, True)), True), 4096),
    "unsolicited pongs": (send_for_ever(b"", frames(5000, (PONG, b"", True)), True), 4096),
    "empty fragments": (
        send_for_ever(frames(1, (BINARY, b"", False)), frames(5000, EMPTY), True),
        4096,
    ),
    "one-byte fragments": (
        send_for_ever(
            frames(1, (BINARY, b"", False)), frames(5000, (CONTINUATION, b"x", False)), True
        ),
        4096,
    ),
    "empty messages": (send_for_ever(b"", frames(10_000, (BINARY, b"", True)), True), 4096),
    "empty messages, unread": (
        send_for_ever(b"", frames(10_000, (BINARY, b"", True)), False),
        4096,
    ),
    "data after the close frame": (
        send_for_ever(
            frames(1, (CLOSE, b"", True)), frames(20, (BINARY, b"x" * 30_000, True)), True
        ),
        4096,
    ),
    "half-open handshakes": (half_open, 8192),
    "out of descriptors": (hold, 256),
    "connect and close": (scan, 4096),
}


def flood(name: str, port: int, seconds: float) -> None:
    pin(1)
    os.nice(19)
    raise_descriptor_limit()
    end = time.monotonic() + seconds
    times = 0
    while time.monotonic() < end:
        times += 1
        try:
            FLOODS[name][0](port, end)
        except OSError:
            time.sleep(0.001)


# The honest connection


def delays(sock: socket.socket, seconds: float) -> list[float]:
    """How long an echo takes, in ms, again and again."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        sock.sendall(MESSAGE)
        left = ECHO_SIZE
        while left:
            data = sock.recv(left)
            if not data:
                raise ConnectionError("the honest connection was closed")
            left -= len(data)
        found.append((time.perf_counter() - start) * 1000)
        time.sleep(max(0, 1 / RATE - (time.perf_counter() - start)))
    return found


def percentile_99(found: list[float]) -> float:
    return statistics.quantiles(found, n=100)[98]


def measure(backend: str, name: str, seconds: int) -> tuple[float, float, float]:
    """Memory growth in MiB, and the percentile without and with the flood in ms.

    A second of flood is followed by one without, in which the flooder is stopped: the machine is
    as noisy in either.
    """
    with server_process(backend, FLOODS[name][1]) as (pid, port), open_socket(port) as sock:
        # Connections that come and go, so that what is kept for later ones is there already.
        for _ in range(50):
            open_socket(port).close()
        delays(sock, 1)
        before = most = resident_memory(pid)
        quiet: list[float] = []
        flooded: list[float] = []
        flooder = subprocess.Popen(
            [sys.executable, __file__, "--flood", name, str(port), str(2 * seconds + 1)]
        )
        try:
            time.sleep(0.5)
            for _ in range(seconds):
                flooded += delays(sock, 1)
                most = max(most, resident_memory(pid))
                flooder.send_signal(signal.SIGSTOP)
                time.sleep(0.05)  # in which the server comes to the end of what was sent
                quiet += delays(sock, 1)
                flooder.send_signal(signal.SIGCONT)
        finally:
            flooder.send_signal(signal.SIGCONT)
            flooder.wait(60)
        return most - before, percentile_99(quiet), percentile_99(flooded)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a flood costs everybody else.")
    parser.add_argument("--backend", choices=BACKENDS, action="append")
    parser.add_argument("--only", choices=FLOODS, action="append")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve[0], int(arguments.serve[1]))
    elif arguments.flood:
        name, port, seconds = arguments.flood
        flood(name, int(port), float(seconds))
    else:
        pin(1)
        print("| backend | flood | memory, MiB | p99 without, ms | p99 with, ms | ratio |")
        print("|---|---|---|---|---|---|")
        for backend in arguments.backend or BACKENDS:
            for name in arguments.only or FLOODS:
                grown, quiet, flooded = measure(backend, name, arguments.seconds)
                print(
                    f"| {backend} | {name} | {grown:+.1f} | {quiet:.2f} | {flooded:.2f} "
                    f"| {flooded / quiet:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
