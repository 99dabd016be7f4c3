"""A soak: `python tests/soak.py` (or `nox -s soak`).

For ten minutes, on each backend in a process of its own, clients open connections to a server and
send, cancel, close, stall and vanish at random, over TCP, TLS, Unix sockets and memory. Every
message is numbered: none may be lost, doubled, torn or out of order. The garbage collector is off;
once a minute it is looked at how many WebSockets live and how many tasks there are, and it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

import creche
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, TEXT
from creche.testing import memory_pair
from soak_apart import Apart
from support import (
    BACKENDS,
    count_descriptors,
    count_tasks,
    make_tls,
    raise_descriptor_limit,
    raw_client,
    resident_memory,
    until,
)

CLIENTS = 12
KEPT = 5  # connections that stay open for all the time
OPTIONS: dict[str, Any] = {
    "close_timeout": 2,
    "open_timeout": 5,
    "ping_interval": 1,
    "ping_timeout": 10,
    "stall_timeout": 10,
    "message_timeout": 1,
}
ENDS = (OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError)


class Lost(Exception):
    """A message was lost, doubled, torn or out of order."""


class Planned(Exception):
    """What a handler or a body raises on purpose."""


live: weakref.WeakSet[creche.WebSocket] = weakref.WeakSet()

# How many messages a handler has taken of each client that was cancelled beside a slow handler.
taken: Counter[int] = Counter()


async def handler(ws: creche.WebSocket) -> None:
    """Echo; the path may ask for a bad end after some messages."""
    live.add(ws)
    kind, _, count = ws.request.path.strip("/").partition("-")
    if kind == "slow":
        async for _ in ws:
            taken[int(count)] += 1
            await anyio.sleep(0.005)
        return
    if kind == "large":
        await ws.send(b"x" * int(count))
        return
    left = int(count or -1)
    async for message in ws:
        await ws.send(message)
        left -= 1
        if left == 0:
            if kind == "raise":
                raise Planned
            if kind == "close":
                await ws.aclose(1001, "enough")
            return


def make_message(number: int) -> str | bytes:
    size = random.choices((0, 10, 100, 1000, 10_000, 100_000), (10, 30, 30, 20, 8, 2))[0]
    body = "x" * size
    text = f"{number}:{body}:{number}"
    return text if random.random() < 0.5 else text.encode()


def number_of(message: str | bytes) -> int:
    text = message if isinstance(message, str) else message.decode()
    first, _, last = text.split(":")
    if first != last:
        raise Lost(f"torn: {first} and {last}")
    return int(first)


class Clients:
    """What goes on at the clients' end, and what was seen."""

    def __init__(self, addresses: dict[str, Any], tls: Any) -> None:
        self.addresses = addresses
        self.tls = tls
        self.done: Counter[str] = Counter()
        self.next_number = 0

    def connect(self, path: str = "") -> Any:
        kind = random.choice(["tcp"] * 7 + ["tls"] + ["unix"] * 2)
        if kind == "unix":
            uri = f"ws://localhost/{path}"
            return creche.connect_unix(self.addresses["unix"], uri, **OPTIONS)
        url = self.addresses[kind] + path
        return creche.connect(url, ssl=self.tls if kind == "tls" else None, **OPTIONS)

    async def talk(self, ws: creche.WebSocket, count: int, *, whole: bool = True) -> None:
        """Send and receive; sends and receives are cancelled now and then.

        `whole`: every message has to come back; else what comes back is the beginning.
        """
        live.add(ws)
        sent: list[int] = []
        received: list[int] = []
        finished = anyio.Event()

        async def produce(ws: creche.WebSocket) -> None:
            number = 0
            while len(sent) < count:
                number += 1
                with anyio.move_on_after(random.choice((0, 0.0005, 10))):
                    await ws.send(make_message(number))
                    sent.append(number)
            await finished.wait()

        async def consume(ws: creche.WebSocket) -> None:
            while len(received) < count:
                with anyio.move_on_after(random.choice((0, 0.0005, 10))):
                    received.append(number_of(await ws.receive()))
            finished.set()

        await ws.run(produce, consume, until="all")
        if received != sent[: len(received)] or (whole and len(received) < count):
            raise Lost(f"sent {sent}, received {received}")
        self.done["messages"] += count

    async def polite(self) -> None:
        async with self.connect() as ws:
            await self.talk(ws, random.randint(1, 4))

    async def in_memory(self) -> None:
        options = {key: value for key, value in OPTIONS.items() if key != "open_timeout"}
        async with memory_pair(clogged_after=2**16, **options) as (ours, theirs):
            live.add(theirs)
            async with anyio.create_task_group() as tg:

                async def echo() -> None:
                    async for message in theirs:
                        await theirs.send(message)

                tg.start_soon(echo)
                await self.talk(ours, random.randint(1, 4))
                await ours.aclose()

    async def cancelled(self) -> None:
        with anyio.move_on_after(random.uniform(0, 0.01)):
            async with self.connect() as ws:
                await self.talk(ws, 1000)

    async def cancelled_with_much_to_send(self) -> None:
        """What it has sent arrives, though it was cancelled and the handler takes its time."""
        number, sent = self.next_number, 0
        self.next_number += 1
        with anyio.move_on_after(random.uniform(0, 0.1)):
            async with self.connect(f"slow-{number}") as ws:
                live.add(ws)
                while True:
                    await ws.send(b"x" * 100_000)
                    sent += 1
        if sent:
            await ws.wait_closed()
            with anyio.fail_after(30):
                await until(lambda: taken[number] == sent)
            self.done["lingered"] += ws.close_code == 1001
        del taken[number]

    async def read_slowly(self) -> None:
        """The handler returns long before all has been read."""
        size = random.randint(1, 10) * 100_000
        async with raw_client(self.addresses["tcp"], f"/large-{size}") as peer:
            read = 0
            with anyio.fail_after(30):
                while read < size + 10:  # and the header
                    read += len(await peer.stream.receive(20_000))
                    await anyio.sleep(0.01)

    async def natively_cancelled(self) -> None:
        try:
            task = asyncio.get_running_loop().create_task(self.polite())
        except RuntimeError:
            return await self.cancelled()
        await anyio.sleep(random.uniform(0, 0.01))
        for _ in range(random.randint(1, 2)):
            task.cancel()
            await checkpoint()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        return None

    async def closed_by_the_server(self) -> None:
        path = random.choice(("close", "raise", "return")) + f"-{random.randint(1, 3)}"
        try:
            async with self.connect(path) as ws:
                await self.talk(ws, 10, whole=False)
        except creche.ConnectionClosed:
            return
        except BaseExceptionGroup as group:
            raise Lost(f"unexpected: {group!r}") from None

    async def raising(self) -> None:
        try:
            async with self.connect() as ws:
                live.add(ws)
                await ws.send("x")
                raise Planned
        except Planned:
            return
        raise Lost("a user's error was swallowed")

    async def vanishing(self) -> None:
        async with raw_client(self.addresses["tcp"]) as peer:
            for _ in range(random.randint(0, 3)):
                await peer.send(BINARY, b"x" * random.choice((0, 1000, 100_000)))
            sock = peer.stream.extra(SocketAttribute.raw_socket)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def stalling(self) -> None:
        """It reads nothing, or does not finish a message."""
        async with raw_client(self.addresses["tcp"]) as peer:
            with anyio.move_on_after(random.uniform(0, 1.5)):
                if random.random() < 0.5:
                    await peer.send(TEXT, b"unfinished", fin=False)
                    await peer.receive_eof()
                while True:
                    await peer.send(BINARY, b"x" * 100_000)

    async def wrong(self) -> None:
        async with raw_client(self.addresses["tcp"]) as peer:
            await peer.send(TEXT, b"fine")
            await peer.send(random.choice((CONTINUATION, CLOSE)), b"\x03")
            await peer.receive_eof()

    async def half_open(self) -> None:
        host, port = self.addresses["tcp"].rpartition("/")[0].rpartition("//")[2].split(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: "[: random.randint(0, 22)])
            await anyio.sleep(random.uniform(0, 0.01))

    async def work(self, end: float) -> None:
        kinds = [self.polite] * 6 + [self.in_memory, self.cancelled, self.natively_cancelled] * 2
        kinds += [self.closed_by_the_server, self.raising, self.vanishing, self.wrong]
        kinds += [self.half_open]
        rare = [self.stalling, self.cancelled_with_much_to_send, self.read_slowly]
        while time.monotonic() < end:
            kind = random.choice(kinds)
            if random.random() < 0.015:
                kind = random.choice(rare)
            try:
                await kind()
            except ENDS as exc:
                if kind in (self.polite, self.in_memory, self.raising):
                    raise Lost(f"{kind.__name__} ended with {exc!r}") from exc
            self.done[kind.__name__] += 1


class Soak:
    """Servers and their clients for a time."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.unix = str(Path(directory) / "soak")
        self.server_tls, self.client_tls = make_tls()
        self.servers: list[creche.Server] = []

    @property
    def opened(self) -> int:
        return sum(server.stats.opened for server in self.servers)

    async def run(self, seconds: float) -> Counter[str]:
        """All of it; returns what the clients have done."""
        logger = logging.getLogger("soak")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        options = {**OPTIONS, "logger": logger}
        async with anyio.create_task_group() as tg:
            self.servers = [
                await tg.start(partial(creche.serve, handler, "127.0.0.1", **options)),
                await tg.start(
                    partial(creche.serve, handler, "localhost", ssl=self.server_tls, **options)
                ),
                await tg.start(partial(creche.serve_unix, handler, self.unix, **options)),
            ]
            tcp, tls, _ = (server.url for server in self.servers)
            clients = Clients({"tcp": tcp, "tls": tls, "unix": self.unix}, self.client_tls)
            stay = anyio.Event()
            apart = Apart()
            server = await tg.start(partial(creche.serve, apart.handler, "127.0.0.1"))
            async with anyio.create_task_group() as kept:
                for _ in range(KEPT):
                    kept.start_soon(self.keep, tcp, stay)
                kept.start_soon(apart.run, server, seconds, stay)
                await self.churn(clients, seconds)
                stay.set()
            for each in [*self.servers, server]:
                await each.shutdown()
        clients.done["of the slow reader's"] += apart.seen
        clients.done["suspended"] += apart.suspended
        return clients.done

    async def keep(self, url: str, stay: anyio.Event) -> None:
        """A connection that is open for all the time."""
        async with creche.connect(url, **OPTIONS) as ws:
            live.add(ws)
            await stay.wait()
            await ws.send("still here")
            if await ws.receive() != "still here":
                raise Lost("a connection that was kept")

    async def churn(self, clients: Clients, seconds: float) -> None:
        """Clients come and go; once a minute they pause, and it is looked at what is left."""
        start = time.monotonic()
        end = start + seconds
        idle_tasks = 0
        while time.monotonic() < end:
            part = min(end, time.monotonic() + min(60, seconds / 2))
            async with anyio.create_task_group() as tg:
                for _ in range(CLIENTS):
                    tg.start_soon(clients.work, part)
            with anyio.fail_after(60):  # in which peers that stalled are given up
                await until(
                    lambda: sum(len(server._register.guests) for server in self.servers) == KEPT
                )
            idle_tasks = idle_tasks or count_tasks()
            alive, tasks = len(live), count_tasks() - idle_tasks
            before = resident_memory()
            gc.collect()
            print(
                f"{self.name:8} {time.monotonic() - start:4.0f} s: {self.opened} connections, "
                f"{clients.done['messages']} messages, open {KEPT} on both sides, "
                f"WebSockets alive {alive}, tasks {tasks:+d}, memory {before:.0f} MiB, "
                f"{resident_memory():.0f} after collecting",
                flush=True,
            )
            if alive != 2 * KEPT or tasks:
                raise Lost(f"{alive} WebSockets alive, {tasks} tasks left")


async def soak(name: str, seconds: float, seed: int) -> None:
    random.seed(seed)
    with tempfile.TemporaryDirectory() as directory:
        # What an event loop and its threads open at the first use stays open.
        await anyio.to_thread.run_sync(len, "")
        await Soak("warm-up", directory).run(1)
        gc.collect()
        gc.disable()
        tasks, descriptors = count_tasks(), count_descriptors()
        soaked = Soak(name, directory)
        done = await soaked.run(seconds)
        await until(lambda: count_tasks() == tasks)
        left = count_tasks() - tasks, count_descriptors() - descriptors, len(live)
        gc.enable()
    kinds = ", ".join(f"{kind} {count}" for kind, count in done.most_common())
    print(f"{name:8} {soaked.opened} connections and {done['in_memory']} in memory: {kinds}")
    print(f"{name:8} tasks, descriptors, WebSockets left: {left}", flush=True)
    if any(left):
        raise Lost(f"left: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Random sends, cancels, closes and losses.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=BACKENDS)
    arguments = parser.parse_args()
    raise_descriptor_limit()
    if arguments.backend:
        name, seconds = arguments.backend, arguments.minutes * 60
        anyio.run(soak, name, seconds, arguments.seed, **BACKENDS[name])
        return
    command = [sys.executable, __file__, "--minutes", str(arguments.minutes)]
    processes = [
        subprocess.Popen([*command, "--seed", str(arguments.seed), "--backend", name])
        for name in BACKENDS
    ]
    failed = [process.wait() for process in processes]
    sys.exit(os.EX_SOFTWARE if any(failed) else 0)


if __name__ == "__main__":
    main()
