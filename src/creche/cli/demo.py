"""`creche demo`: what the library is for, in a few seconds on each event loop that is there."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

import anyio
from anyio.abc import SocketAttribute

import creche

# So long there is something to see; twice that, and both event loops, are ten seconds.
_MOMENT = 0.25

# Who speaks, in which colour of a terminal's.
_COLOURS = {"server": 36, "client": 33, "creche": 32}


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "demo", help="show in ten seconds what the library is for, on each event loop"
    )
    parser.set_defaults(prepare=lambda _: run, backend="asyncio")


async def run() -> None:
    await Demo("asyncio").run()
    if find_spec("trio") is not None:
        # A loop of its own, in a thread of its own.
        await anyio.to_thread.run_sync(lambda: anyio.run(Demo("trio").run, backend="trio"))
    else:
        print("The same runs on Trio: pip install trio")


class Demo:
    """The scenes, on one event loop."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._start = 0.0
        self._in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    async def run(self) -> None:
        for scene in (
            self.both_at_once,
            self.vanishing_peer,
            self.cancelled_send,
            self.slow_reader,
        ):
            assert scene.__doc__ is not None
            print(self._coloured(f"\n--- {self._backend}: {scene.__doc__}", 1), flush=True)
            self._start = time.perf_counter()
            await scene()

    def _coloured(self, text: str, colour: int) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._in_colour else text

    def say(self, who: str, text: str) -> None:
        seconds = time.perf_counter() - self._start
        print(self._coloured(f"{seconds:5.2f} s  {who}  {text}", _COLOURS[who]), flush=True)

    async def both_at_once(self) -> None:
        """a consumer and a producer are children of one connection"""

        async def shout(ws: creche.WebSocket) -> None:
            async for message in ws:
                await ws.send(message.upper())

        async def producer(ws: creche.WebSocket) -> None:
            for message in ("hello", "from a task", "in a nursery"):
                self.say("client", f"producer sends {message!r}")
                await ws.send(message)
                await anyio.sleep(_MOMENT)
            self.say("client", "producer returns: the consumer is cancelled")

        async def consumer(ws: creche.WebSocket) -> None:
            async for message in ws:
                self.say("client", f"consumer has {message!r}")

        async with creche.serving(shout, "localhost") as server:
            self.say("server", f"listens at {server.url}")
            async with creche.connect(server.url) as ws:
                await ws.run(consumer, producer)
            self.say("creche", f"nothing is left, and the connection is closed: {ws.close_code}")

    async def vanishing_peer(self) -> None:
        """the peer vanishes, and whoever works for it is cancelled"""

        async def vanish(ws: creche.WebSocket) -> None:
            await anyio.sleep(1.5 * _MOMENT)
            self.say("server", "is gone, without a word")
            ws.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)

        async def work(_ws: creche.WebSocket) -> None:
            try:
                while True:
                    self.say("client", "works for the peer")
                    await anyio.sleep(_MOMENT)
            finally:
                self.say("client", "stops working")

        async with creche.serving(vanish, "localhost") as server:
            try:
                async with creche.connect(server.url) as ws:
                    await ws.run(work, creche.discard)
            except creche.ConnectionClosedError as exc:
                self.say("creche", f"one exception tells: {exc}")

    async def cancelled_send(self) -> None:
        """a send that is cancelled has sent nothing, and the connection is whole"""
        reading = anyio.Event()
        sizes: list[int] = []

        async def read_late(ws: creche.WebSocket) -> None:
            await reading.wait()
            sizes.extend([len(message) async for message in ws])

        async with creche.serving(read_late, "localhost", max_queue=1) as server:
            async with creche.connect(server.url, compression=None) as ws:
                sent = 0
                with anyio.move_on_after(2 * _MOMENT):
                    while True:
                        await ws.send(bytes(1_000_000))
                        sent += 1
                self.say("client", f"sent {sent} MB, and has been cancelled while it sends another")
                reading.set()
                await ws.send(b"whole")
            await server.shutdown()
        self.say("creche", f"arrived: {sizes.count(1_000_000)} MB, then {sizes[-1]} bytes")

    async def slow_reader(self) -> None:
        """who reads slowly holds up nobody else"""
        names: dict[creche.WebSocket, str] = {}
        all_there = anyio.Event()

        async def enter(ws: creche.WebSocket) -> None:
            names[ws] = ws.request.path.strip("/")
            if len(names) == 2:
                all_there.set()
            await creche.discard(ws)

        async def sleep(_ws: creche.WebSocket) -> None:
            await anyio.sleep_forever()

        async def count(ws: creche.WebSocket) -> None:
            received = 0
            with anyio.move_on_after(2 * _MOMENT):
                async for _ in ws:
                    received += 1
            self.say("client", f"the quick one has received {received} messages")

        async def visit(name: str, handler: Callable[[creche.WebSocket], Awaitable[None]]) -> None:
            async with creche.connect(f"{server.url}{name}", max_queue=1) as ws:
                await handler(ws)

        async with (
            creche.serving(enter, "localhost", compression=None) as server,
            anyio.create_task_group() as tg,
        ):
            tg.start_soon(visit, "slow", sleep)
            tg.start_soon(visit, "quick", count)
            await all_there.wait()
            passed_over: list[str] = []
            for _ in range(20):
                skipped = creche.broadcast(server.connections, bytes(1_000_000))
                passed_over += [names[ws] for ws in skipped]
                await anyio.sleep(_MOMENT / 20)
            self.say("server", "has sent 20 messages of 1 MB to both")
            for name in dict.fromkeys(passed_over):
                times = passed_over.count(name)
                self.say("creche", f"broadcast() has passed the {name} one over {times} times")
            await anyio.sleep(2 * _MOMENT)
            tg.cancel_scope.cancel()
