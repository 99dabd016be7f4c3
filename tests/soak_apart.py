"""What takes its time in the soak: a slow reader, a process that is suspended, what lingers.

They have a server of their own, and are there for all the time.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from typing import Any

import anyio

import creche
from creche.protocol.frames import CLOSE, PING, TEXT, FrameHeader
from support import REQUEST

# What the slow reader is sent, as fast as it reads, and how fast that is.
SIZE = 100_000
RATE = 200_000

# A client whose own deadlines pass while it stands still; the server's do not.
SUSPENDED = """
import sys, anyio, creche

async def main(url):
    async with creche.connect(url, ping_interval=1, ping_timeout=1) as ws:
        print("open", flush=True)
        while True:
            await ws.send("x")
            await ws.receive()
            await anyio.sleep(0.1)

anyio.run(main, sys.argv[1])
"""
MOST_SUSPENDED = 6.0


class Apart:
    """The slow ones, and what became of them.

    Attributes:
        seen: how many messages the slow reader has, and how often a process was suspended.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.suspended = 0
        self._over = anyio.Event()
        self._sent = 0

    async def handler(self, ws: creche.WebSocket) -> None:
        """Echo, or send numbered messages until all is over."""
        if ws.request.path != "/flood":
            async for message in ws:
                await ws.send(message)
            return
        while not self._over.is_set():
            await ws.send(f"{self._sent:08}" + "x" * (SIZE - 8))
            self._sent += 1

    async def run(self, server: creche.Server, seconds: float, over: anyio.Event) -> None:
        """Both of them, until the soak is over."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._read_slowly, server.addresses[0])
            tg.start_soon(self._suspend, server.url, seconds, over)
            await over.wait()
            self._over.set()

    async def _read_slowly(self, address: Any) -> None:
        self.seen, end = await anyio.to_thread.run_sync(read_slowly, address)
        assert (self.seen, end) == (self._sent, (CLOSE, b"\x03\xe8")), (self.seen, self._sent, end)

    async def _suspend(self, url: str, seconds: float, over: anyio.Event) -> None:
        command = [sys.executable, "-c", SUSPENDED, url]
        async with await anyio.open_process(command, stderr=None) as process:
            try:
                assert process.stdout is not None
                await process.stdout.receive()
                pause = min(MOST_SUSPENDED, seconds / 4)
                while not over.is_set():
                    process.send_signal(signal.SIGSTOP)
                    await anyio.sleep(pause)
                    process.send_signal(signal.SIGCONT)
                    self.suspended += 1
                    with anyio.move_on_after(pause):
                        await over.wait()
                    assert process.returncode is None, (
                        "a process that was suspended lost its socket"
                    )
            finally:
                process.kill()


def read_slowly(address: Any) -> tuple[int, tuple[int, bytes]]:
    """Read what /flood sends, steadily: how many messages came in order, and the last frame."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        sock.settimeout(60)
        sock.connect(address)
        sock.sendall(REQUEST.replace(b"GET / ", b"GET /flood "))
        while sock.recv(1) != b"\r" or sock.recv(3) != b"\n\r\n":
            pass
        data, seen, taken, start = b"", 0, 0, time.monotonic()
        while True:
            header = FrameHeader(False)
            begin = header.read(data, 0, len(data))
            if begin > 0 and len(data) >= begin + header.length:
                payload, data = (
                    data[begin : begin + header.length],
                    data[begin + header.length :],
                )
                if header.opcode == PING:
                    continue
                if header.opcode != TEXT or int(payload[:8]) != seen or len(payload) != SIZE:
                    return seen, (header.opcode, payload)
                seen += 1
                continue
            time.sleep(max(start + taken / RATE - time.monotonic(), 0))
            piece = sock.recv(2**14)
            if not piece:
                return seen, (-1, b"")
            taken += len(piece)
            data += piece
