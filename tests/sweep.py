"""The cancellation sweep: a scenario is run again and again, cancelled elsewhere each time.

A coroutine is wrapped, what it yields is counted, and it is cancelled just before its k-th
suspension, for k = 0, 1, 2, ... until it runs through. After each run the world is looked at: what
the peer has received, what is left of tasks, descriptors and async generators, and how long the
end took.

    python tests/sweep.py

sweeps everything and prints the number of cancellation points of each scenario.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import inspect
import logging
import os
import socket
import ssl
import tempfile
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSListener, TLSStream

import creche
from creche.connection.pending import PendingConnection
from creche.engine.budget import current_budget
from creche.protocol.connection import Connection
from creche.protocol.frames import BINARY, TEXT
from creche.protocol.states import Side
from creche.testing import memory_byte_pair
from creche.transports.dialing import dial_unix
from support import BACKENDS, RawPeer, count_descriptors, count_tasks, make_tls, until

TRANSPORTS = ("tcp", "tls", "unix", "memory")
PEERS = ("quick", "clogged", "gone")
LARGE = 300_000
OPTIONS: dict[str, Any] = {"close_timeout": 5, "ping_interval": None}
# A peer that reads nothing more is given up soon, so that a scenario ends that is not cancelled.
IMPATIENT = dict.fromkeys(("close_timeout", "ping_interval", "ping_timeout", "stall_timeout"), 0.05)
# A scope that is cancelled ends within close_timeout; this is where a wait for ever is noticed.
BOUND = 10.0


class Swept(Exception):
    """What the sweep found, and where."""


class UserError(Exception):
    """What an application raises when it is cancelled."""


# Cancelling at a suspension


class Counted:
    """An awaitable that calls `strike(n)` just before the n-th suspension of `coro`."""

    def __init__(self, coro: Coroutine[Any, Any, Any], strike: Callable[[int], None]) -> None:
        self._coro = coro
        self._strike = strike
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    waited_for = (
                        self._coro.send(value) if error is None else self._coro.throw(error)
                    )
                except StopIteration as stop:
                    return stop.value
                self._strike(self.suspensions)
                self.suspensions += 1
                value = error = None
                try:
                    value = yield waited_for
                except BaseException as exc:
                    error = exc
        finally:
            del error


@dataclass
class Run:
    """One run of a scenario.

    Attributes:
        struck: whether it was cancelled, which it is unless it has run through before.
        cancelled: whether the cancellation came out of it.
        error: what it raised otherwise.
    """

    struck: bool = False
    cancelled: bool = False
    error: Exception | None = None


async def cancel_at(k: int, how: str, coro: Coroutine[Any, Any, Any]) -> Run:
    """Run `coro`, and cancel it at its k-th suspension.

    Args:
        k: which one, from 0.
        how: "scope" cancels a scope around it, "native" its asyncio task, "twice" the task there
            and at its next suspension.
        coro: the scenario.
    """
    run = Run()
    strikes = (k, k + 1) if how == "twice" else (k,)

    def strike(suspension: int) -> None:
        if suspension in strikes:
            run.struck = True
            cancel()

    async def counted() -> None:
        try:
            await Counted(coro, strike)
        except Exception as exc:
            run.error = exc

    if how == "scope":
        with anyio.CancelScope() as scope:
            cancel: Callable[[], object] = scope.cancel
            await counted()
        run.cancelled = scope.cancelled_caught
    else:
        task = asyncio.create_task(counted())
        cancel = task.cancel
        await asyncio.wait([task])
        run.cancelled = task.cancelled()
        if not run.cancelled:
            task.result()
    return run


# The peer


class Peer(RawPeer):
    """A peer that keeps what it receives. It speaks through a Connection of its own."""

    def __init__(self, stream: ByteStream, side: Side) -> None:
        super().__init__(stream, side)
        self.connection = Connection(
            side, bytearray(), 0, max_size=None, max_queue=None, max_queue_bytes=None
        )
        self.messages: list[str | bytes] = []
        self.clogged = False
        self.unclogged = anyio.Event()
        self.over = False
        self._writing = anyio.Lock()  # both `run` and `say` do

    def take(self, data: bytes) -> None:
        connection = self.connection
        connection.receive_data(data, 0)
        while (message := connection.next_message(0)) is not None:
            self.messages.append(message)

    async def run(self) -> None:
        """Receive, and answer control frames, until the end; echo nothing."""
        try:
            while True:
                data = await self.stream.receive()
                if self.clogged:
                    await self.unclogged.wait()
                self.take(data)
                await self.write()
                if self.connection.ended and self.side is Side.SERVER:
                    return  # the server closes TCP first (RFC 6455 7.1.1)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self.over = True
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self.stream)

    async def write(self) -> None:
        async with self._writing:
            data = bytes(self.connection.outbox)
            self.connection.outbox.clear()
            if data:
                await self.stream.send(data)

    async def say(self, message: str | bytes) -> None:
        """Send a message, unless the connection has ended: an impatient one may have."""
        if isinstance(message, str):
            self.connection.send_message(TEXT, message.encode())
        else:
            self.connection.send_message(BINARY, message)
        try:
            await self.write()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass

    def behave(self, peer: str) -> None:
        if peer == "clogged":
            self.clogged = True
        elif peer == "gone":
            stream = self.stream
            try:
                sock = stream.extra(SocketAttribute.raw_socket)
            except anyio.TypedAttributeLookupError:
                stream._closed = True
                stream._peer._ended = True
                stream._peer._wake()
                stream._wake()
            else:
                # uvloop's own kind of socket cannot be shut down.
                with socket.socket(fileno=os.dup(sock.fileno())) as twin:
                    twin.shutdown(socket.SHUT_RDWR)

    def unclog(self) -> None:
        self.unclogged.set()


class UnixStream(ByteStream):
    """A connected Unix socket. AnyIO's own stream fails on uvloop when a receive is cancelled."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: self._sock}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.wait_readable(self._sock)
        try:
            data = self._sock.recv(max_bytes)
        except OSError as exc:
            raise anyio.BrokenResourceError from exc
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        view = memoryview(item)
        while view:
            await anyio.wait_writable(self._sock)
            try:
                view = view[self._sock.send(view) :]
            except OSError as exc:
                raise anyio.BrokenResourceError from exc

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
            self._sock.close()
        await checkpoint()


# The world


@dataclass
class World:
    """Where scenarios run: one transport on one backend."""

    transport: str
    tls: tuple[ssl.SSLContext, ssl.SSLContext]  # of the server, of the client
    directory: Path
    tasks: Any = None
    address: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    opening: str = "quick"  # what the peer is like in the opening handshake already
    peers: list[Peer] = field(default_factory=list)
    base: tuple[int, int] = (0, 0)

    async def answer(self, stream: ByteStream) -> None:
        peer = Peer(stream, Side.SERVER)
        try:
            if self.opening == "gone":
                raise anyio.EndOfStream
            while self.opening == "clogged":
                await stream.receive()  # and never answer
            await peer.shake_hands()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await anyio.aclose_forcefully(stream)  # or the client was cancelled before
            return
        self.peers.append(peer)
        await peer.run()

    def connect(self) -> PendingConnection:
        """A WebSocket to the peer."""
        if self.transport == "memory":
            ours, theirs = memory_byte_pair(clogged_after=2**16)
            self.tasks.start_soon(self.answer, theirs)
            return creche.client_websocket(ours, "ws://localhost/", **self.options)
        if self.transport == "unix":
            return creche.connect_unix(self.address, **self.options)
        scheme, tls = ("wss", self.tls[1]) if self.transport == "tls" else ("ws", None)
        return creche.connect(f"{scheme}://localhost:{self.address}/", ssl=tls, **self.options)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[creche.WebSocket, Peer]]:
        """A connection, and the peer of it."""
        async with self.connect() as ws:
            await until(lambda: self.peers)
            if self.transport != "memory":
                # The kernel would take megabytes, and no send would ever wait.
                sock = ws.extra(SocketAttribute.raw_socket)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
            yield ws, self.peers[0]

    # A creche server in this world, for the scenarios whose peers are clients

    def serving(self, handler: Any) -> Any:
        """What serves, as a coroutine function with a task status."""
        options = {**self.options, "ssl": self.tls[0]} if self.transport == "tls" else self.options
        if self.transport == "unix":
            return partial(creche.serve_unix, handler, self.directory / "swept", **options)
        return partial(creche.serve, handler, "127.0.0.1", **options)

    async def visit(self, server: creche.Server) -> Peer:
        """A client of it, which is a task of the world's."""
        address = server.addresses[0]
        stream: ByteStream
        if isinstance(address, str):
            stream = UnixStream(await dial_unix(address))
        else:
            stream = await anyio.connect_tcp(*address)
        try:
            if self.transport == "tls":
                stream = await TLSStream.wrap(
                    stream, hostname="localhost", ssl_context=self.tls[1], standard_compatible=False
                )
            peer = Peer(stream, Side.CLIENT)
            await peer.shake_hands()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)
            raise
        self.peers.append(peer)
        self.tasks.start_soon(peer.run)
        return peer

    # Between the runs

    async def end_peers(self) -> None:
        for peer in self.peers:
            peer.unclog()
        await until(lambda: all(peer.over for peer in self.peers))

    def left(self) -> tuple[int, int]:
        """Tasks and descriptors that were not there at the beginning."""
        return count_tasks() - self.base[0], count_descriptors() - self.base[1]

    async def clean(self) -> None:
        """Nothing is left of a run, as soon as its peers have ended."""
        await self.end_peers()
        self.peers.clear()
        with anyio.move_on_after(BOUND):
            await until(lambda: self.left() <= (0, 0) and self.left()[1] <= 0)
            return
        raise Swept(f"tasks and descriptors left: {self.left()}")


def live_generators() -> list[types.AsyncGeneratorType[Any, Any]]:
    """Async generators that have begun and not ended."""
    return [
        thing
        for thing in gc.get_objects()
        if type(thing) is types.AsyncGeneratorType  # a dead weak proxy would raise in isinstance
        and thing.ag_frame is not None
        and inspect.getmodule(thing.ag_code) is not None
        and "creche" in thing.ag_code.co_filename
        and "tests" not in thing.ag_code.co_filename
    ]


@asynccontextmanager
async def open_world(
    transport: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        world = World(transport, tls, Path(directory))
        world.tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(world.tasks.cancel_scope.cancel)
        listener: Any = None
        if transport == "unix":
            world.address = str(world.directory / "peer")
            listener = await anyio.create_unix_listener(world.address)
        elif transport != "memory":
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            world.address = listener.extra(SocketAttribute.local_port)
        if listener is not None:
            sock = listener.extra(SocketAttribute.raw_socket)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
            if transport == "tls":
                listener = TLSListener(listener, tls[0], standard_compatible=False)
            world.tasks.start_soon(serve_peers, listener, world)
        # What an event loop opens at the first use stays open.
        world.options = OPTIONS
        world.base = 10**6, 10**6
        async with world.opened() as (ws, _):
            await ws.send("warm")
        await world.clean()
        await anyio.to_thread.run_sync(len, "")
        await checkpoint()
        world.base = count_tasks(), count_descriptors()
        yield world


async def serve_peers(listener: Any, world: World) -> None:
    async with listener:
        await listener.serve(world.answer)


# Scenarios
#
# Those of METHODS call one method on an open connection, which goes on to be used afterwards; those
# of LIVES are a whole connection or server.


Log = list[Any]


def checkpoints() -> None:
    """Let the next call of send or receive be one that gives others their turn first."""
    current_budget().exhaust()


async def send_small(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    for number in range(3):
        checkpoints()
        await ws.send(f"message {number}")
        log.append(f"message {number}")


async def send_large(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    for number in range(3):
        message = bytes([number]) * LARGE
        await ws.send(message)
        log.append(message)


async def receive(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    for _ in range(4):
        checkpoints()
        log.append(await ws.receive())


async def send_stream(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    async with ws.send_stream() as stream:
        for number in range(3):
            checkpoints()
            await stream.send(bytes([number]) * LARGE)
    log.append(b"".join(bytes([number]) * LARGE for number in range(3)))


async def receive_stream(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    for _ in range(4):
        checkpoints()
        async with ws.receive_stream() as stream:
            log.append(DROPPED)
            chunks = [chunk async for chunk in stream]
        log[-1] = type(chunks[0])().join(chunks)  # type: ignore[arg-type]


async def ping(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    await ws.ping()


async def flush(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    ws.send_nowait(b"f" * LARGE)
    log.append(b"f" * LARGE)
    await ws.flush()


async def aclose(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    await ws.aclose()


async def wait_closed(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    await ws.send_eof()
    await ws.wait_closed()


async def send_eof(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    await ws.send_eof()


async def producer(ws: creche.WebSocket, log: Log) -> None:
    for number in range(3):
        await ws.send(f"produced {number}")
        log.append(f"produced {number}")
        await checkpoint()


async def run(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    async def produce(ws: creche.WebSocket) -> None:
        await producer(ws, log)

    await ws.run(creche.discard, produce)


async def create_task_group(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    async with ws.create_task_group() as tg:
        tg.start_soon(creche.discard, ws)
        tg.start_soon(producer, ws, log)
        await checkpoint()
        await checkpoint()
        tg.cancel_scope.cancel()


async def error_in_run(ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    """A handler that raises when it is cancelled."""

    async def raising(ws: creche.WebSocket) -> None:
        try:
            await anyio.sleep_forever()
        except BaseException:
            log.append("cancelled")
            raise UserError from None

    async def ending(ws: creche.WebSocket) -> None:
        await checkpoint()

    await ws.run(raising, ending)


METHODS: dict[str, Callable[[creche.WebSocket, Peer, Log], Coroutine[Any, Any, None]]] = {
    "send, small": send_small,
    "send, large": send_large,
    "receive": receive,
    "send_stream": send_stream,
    "receive_stream": receive_stream,
    "ping": ping,
    "flush": flush,
    "aclose": aclose,
    "wait_closed": wait_closed,
    "send_eof": send_eof,
    "run": run,
    "create_task_group": create_task_group,
    "run, an error": error_in_run,
}

RECEIVING = ("receive", "receive_stream")

# What stands for a message that was received in part: the rest of it is dropped.
DROPPED = b"dropped"

OFFERED: list[str | bytes] = ["one", "two", "three", b"four" * 50_000]


async def method_once(world: World, name: str, peer_kind: str, k: int, how: str) -> Run:
    log: Log = []
    async with AsyncExitStack() as stack:
        ws, peer = await stack.enter_async_context(world.opened())
        if name in RECEIVING:
            for message in OFFERED[:2]:
                await peer.say(message)
            if peer_kind == "quick":
                world.tasks.start_soon(say_rest, peer)
        peer.behave(peer_kind)
        with anyio.fail_after(BOUND):
            outcome = await cancel_at(k, how, METHODS[name](ws, peer, log))
        error = outcome.error
        if isinstance(error, ExceptionGroup) or "cancelled" in log:
            check(
                isinstance(error, ExceptionGroup)
                and [type(part) for part in error.exceptions] == [UserError],
                f"a user's error became {error!r}",
            )
            log.clear()
        elif error is not None:
            check(peer_kind != "quick" or outcome.struck, f"raised {error!r}")
            check(isinstance(error, creche.ConnectionClosed), f"raised {error!r}")
        if peer_kind == "quick" and ws.close_code is None:
            await use_again(name, ws, peer, log)
        if peer_kind == "clogged":
            peer.unclog()
        await stack.aclose()
    check(ws.close_code is not None, "the connection is still open")
    await world.end_peers()
    if name not in RECEIVING:
        check_received(peer, log, peer_kind)
    return outcome


async def say_rest(peer: Peer) -> None:
    for message in OFFERED[2:]:
        await checkpoint()
        await peer.say(message)


async def use_again(name: str, ws: creche.WebSocket, peer: Peer, log: Log) -> None:
    """A call that was cancelled has done no harm."""
    with anyio.fail_after(BOUND):
        if name in RECEIVING:
            while len(log) < len(OFFERED):
                log.append(await ws.receive())
            expected = [
                DROPPED if message == DROPPED else offered
                for message, offered in zip(log, OFFERED, strict=True)
            ]
            check(log == expected, "received messages were lost or out of order")
            check(name != "receive" or DROPPED not in log, "receive() has dropped a message")
        if ws._link.is_open():
            await ws.send("afterwards")
            log.append("afterwards")
            await ws.flush()


def check_received(peer: Peer, log: Log, peer_kind: str) -> None:
    """Whole messages, in order, and of a cancelled send all or nothing."""
    check(peer.connection.failure is None, f"the peer got {peer.connection.failure}")
    received = peer.messages
    if peer_kind == "quick":
        check(received == log, f"{len(log)} sent, {len(received)} received")
    else:
        check(received == log[: len(received)], "what was received is not what was sent")


def user_part(error: Exception) -> Any:
    """What is left of an exception without those that tell of a peer that has gone."""
    ends = OSError, creche.WebSocketError, anyio.BrokenResourceError, anyio.EndOfStream
    return ExceptionGroup("", [error]).split(ends)[1]


async def connecting(world: World, kind: str, log: Log) -> None:
    world.opening = kind
    async with world.connect() as ws:
        try:
            await producer(ws, log)
            await ws.ping()
            await ws.flush()
        except anyio.get_cancelled_exc_class():
            log.append("cancelled")
            raise


async def awaited(world: World, kind: str, log: Log) -> None:
    """Connections that are awaited, and held by a stack."""
    world.opening = kind
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(await world.connect())
        await stack.enter_async_context(await world.connect())
        await producer(first, log)


async def error_in_connect(world: World, kind: str, log: Log) -> None:
    """A body that raises when it is cancelled."""
    async with world.connect() as ws:
        try:
            await producer(ws, log)
        except anyio.get_cancelled_exc_class():
            log.append("cancelled")
            raise UserError from None


async def serve(world: World, kind: str, log: Log) -> None:
    if world.transport == "memory":
        await serve_stream(world, kind, log)
        return
    async with anyio.create_task_group() as tg:
        server = await tg.start(world.serving(creche.discard))
        for _ in range(2):
            peer = await world.visit(server)
        await until(lambda: server.stats.opened == 2)
        peer.behave(kind)
        tg.cancel_scope.cancel()


async def serve_stream(world: World, kind: str, log: Log) -> None:
    ours, theirs = memory_byte_pair()
    peer = Peer(theirs, Side.CLIENT)
    world.peers.append(peer)

    async def visit() -> None:
        try:
            await peer.shake_hands()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # cancelled before
        await peer.run()

    world.tasks.start_soon(visit)
    async with creche.server_websocket(ours, **world.options) as ws:
        peer.behave(kind)
        await producer(ws, log)


async def serving(world: World, kind: str, log: Log) -> None:
    async with creche.serving(creche.discard, "127.0.0.1", **world.options) as server:
        try:
            peer = await world.visit(server)
            await until(lambda: server.connections)
            peer.behave(kind)
        except anyio.get_cancelled_exc_class():
            log.append("cancelled")
            raise UserError from None


async def reconnect(world: World, kind: str, log: Log) -> None:
    """A first connection that the handler leaves open, and a second one that is the end."""
    turns = 0

    async def handler(ws: creche.WebSocket) -> None:
        nonlocal turns
        turns += 1
        await producer(ws, log)
        if turns == 1:
            world.peers[-1].behave("gone")
            await creche.discard(ws)

    tls: Any = {"ssl": world.tls[1]} if world.transport == "tls" else {}
    await creche.reconnect(
        f"{'wss' if tls else 'ws'}://localhost:{world.address}/",
        handler,
        initial_delay=0.001,
        **world.options,
        **tls,
    )


async def redirected(world: World, kind: str, log: Log) -> None:
    to = creche.Response(302, {"Location": f"ws://localhost:{world.address}/"})
    async with creche.serving(
        creche.discard, "127.0.0.1", process_request=lambda _: to, **world.options
    ) as front:
        async with creche.connect(front.url, redirects="any", **world.options) as ws:
            await producer(ws, log)


async def deciding(world: World, kind: str, log: Log) -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        await creche.discard(await request.accept())

    async with anyio.create_task_group() as tg:
        server = await tg.start(world.serving(handler))
        peer = await world.visit(server)
        await until(lambda: server.stats.opened == 1)
        peer.behave(kind)
        tg.cancel_scope.cancel()


LIVES: dict[str, Callable[[World, str, Log], Coroutine[Any, Any, None]]] = {
    "connect": connecting,
    "connect, awaited": awaited,
    "connect, an error": error_in_connect,
    "serve": serve,
    "serving, an error": serving,
    "deciding": deciding,
    "reconnect": reconnect,
    "redirected": redirected,
}


async def life_once(world: World, name: str, peer_kind: str, k: int, how: str) -> Run:
    log: Log = []
    if peer_kind == "clogged" and name == "connect":
        world.options = {**world.options, "open_timeout": 0.05}
    with anyio.fail_after(BOUND):
        outcome = await cancel_at(k, how, LIVES[name](world, peer_kind, log))
    world.opening = "quick"
    if name.endswith("an error") and "cancelled" in log:
        check(type(outcome.error) is UserError, f"a user's error became {outcome.error!r}")
        log.remove("cancelled")
    elif outcome.error is not None:
        # One that is cancelled may be told that the peer has gone; one that runs through may not.
        check(outcome.struck or peer_kind != "quick", f"raised {outcome.error!r}")
        check(not user_part(outcome.error), f"raised {outcome.error!r}")
    await world.end_peers()
    for peer in world.peers[:1]:
        if name.startswith("connect"):
            log = [message for message in log if message != "cancelled"]
            check_received(peer, log, peer_kind if not outcome.struck else "any")
    return outcome


async def shutdown_once(world: World, name: str, peer_kind: str, k: int, how: str) -> Run:
    """Server.shutdown() with a connection in use and a peer that is as it is."""
    async with anyio.create_task_group() as tg:
        server = await tg.start(world.serving(talk))
        peers = [await world.visit(server) for _ in range(2)]
        await until(lambda: len(server.connections) == 2)
        peers[0].behave(peer_kind)
        with anyio.fail_after(BOUND):
            outcome = await cancel_at(k, how, server.shutdown(grace=0.05))
            while server._register.guests:
                await checkpoint()
    check(outcome.error is None, f"raised {outcome.error!r}")
    await world.end_peers()
    check(peers[1].connection.failure is None, f"the peer got {peers[1].connection.failure}")
    return outcome


async def talk(ws: creche.WebSocket) -> None:
    while True:
        await ws.send(b"t" * 10_000)
        await anyio.sleep(0.001)


Once = Callable[[World, str, str, int, str], Awaitable[Run]]


@dataclass(frozen=True)
class Scenario:
    """What is swept.

    Attributes:
        once: how to run it once.
        peers: what its peer may be like.
        transports: where it makes a difference.
    """

    once: Once
    peers: tuple[str, ...] = PEERS
    transports: tuple[str, ...] = TRANSPORTS


SCENARIOS: dict[str, Scenario] = {
    **{name: Scenario(method_once) for name in METHODS},
    **{name: Scenario(life_once) for name in LIVES},
    "connect, awaited": Scenario(
        life_once, peers=("quick", "gone"), transports=("tcp", "tls", "unix")
    ),
    "connect, an error": Scenario(life_once, peers=("quick",)),
    "serving, an error": Scenario(life_once, transports=("tcp",)),
    "deciding": Scenario(life_once, transports=("tcp", "tls", "unix")),
    "reconnect": Scenario(life_once, peers=("quick",), transports=("tcp", "tls")),
    "redirected": Scenario(life_once, peers=("quick",), transports=("tcp",)),
    "Server.shutdown": Scenario(shutdown_once, transports=("tcp", "tls", "unix")),
}


def check(condition: object, what: str) -> None:
    if not condition:
        raise Swept(what)


async def sweep(world: World, name: str, peer: str, how: str) -> int:
    """Run a scenario, cancelled at each of its suspensions; returns how many there are.

    Raises:
        Swept: a promise was broken; it says which, and where.
    """
    once = SCENARIOS[name].once
    k = 0
    while True:
        where = f"{name}, peer {peer}, {world.transport}, {how}, suspension {k}"
        world.options = OPTIONS if peer == "quick" else IMPATIENT
        try:
            outcome = await once(world, name, peer, k, how)
            await world.clean()
        except (Swept, TimeoutError, creche.WebSocketError) as exc:
            raise Swept(f"{where}: {str(exc) or 'it did not end'}") from exc
        if not outcome.struck:
            break
        k += 1
    generators = live_generators()
    check(not generators, f"{where}: async generators are left: {generators}")
    return k


def ways(backend: str) -> tuple[str, ...]:
    """How a task can be cancelled there."""
    return ("scope",) if backend == "trio" else ("scope", "native", "twice")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cancel every public coroutine everywhere.")
    parser.add_argument("--backend", choices=BACKENDS, action="append")
    parser.add_argument("--transport", choices=TRANSPORTS, action="append")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    arguments = parser.parse_args()
    logging.getLogger("anyio.streams.tls").disabled = True  # it tells of clients that have gone
    tls = make_tls()
    total = 0
    for backend in arguments.backend or BACKENDS:
        for transport in arguments.transport or TRANSPORTS:
            for name in arguments.scenario or SCENARIOS:
                if transport not in SCENARIOS[name].transports:
                    continue
                points: dict[str, int] = {}

                async def swept(name: str = name, transport: str = transport) -> None:
                    async with open_world(transport, tls) as world:
                        for peer in SCENARIOS[name].peers:
                            for how in ways(backend):  # noqa: B023
                                points[f"{peer}/{how}"] = await sweep(world, name, peer, how)  # noqa: B023

                anyio.run(swept, **BACKENDS[backend])
                total += sum(points.values())
                counts = ", ".join(f"{key} {count}" for key, count in points.items())
                print(f"{backend:8} {transport:7} {name:18} {counts}", flush=True)
    print(f"{total} cancellations, every one kept the promises")


if __name__ == "__main__":
    main()
