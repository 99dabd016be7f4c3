"""Who is called back for a socket, also where an application closes or detaches it."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

import creche
from creche.engine.current import current_engine
from creche.engine.polling import Poller
from creche.transports.accepting import Acceptor, RareWarning
from creche.transports.base import Receiver
from creche.transports.callback_sockets import CallbackSocketTransport
from creche.transports.listening import bind_tcp
from creche.transports.sockets import SocketTransport
from support import echo, settle, until

pytestmark = pytest.mark.anyio

OURS = (SocketTransport, CallbackSocketTransport)


class Taken:
    """What is done with a socket by whoever has got hold of it."""

    def __init__(self, how: str) -> None:
        self.keeps = how == "detach"
        self._kept: list[int] = []

    def __call__(self, sock: Any) -> None:
        if self.keeps:
            self._kept.append(sock.detach())
        else:
            sock.close()

    def close(self) -> None:
        for descriptor in self._kept:
            os.close(descriptor)


@pytest.fixture(params=["close", "detach"])
def take(request: pytest.FixtureRequest) -> Iterator[Taken]:
    taken = Taken(request.param)
    yield taken
    taken.close()


class Failures(Receiver):
    def __init__(self) -> None:
        self.reading: list[Exception] = []
        self.writing: list[Exception] = []

    def read_failed(self, exc: Exception) -> None:
        self.reading.append(exc)

    def write_failed(self, exc: Exception) -> None:
        self.writing.append(exc)


class Callbacks:
    """Readiness without a kernel: whoever was added is called by the test."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self.read_buffer = bytearray(2**16)
        self.readiness = self

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        assert descriptor >= 0
        self.readers[descriptor] = callback

    def remove_reader(self, descriptor: int) -> None:
        del self.readers[descriptor]

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        assert descriptor >= 0
        self.writers[descriptor] = callback

    def remove_writer(self, descriptor: int) -> None:
        del self.writers[descriptor]

    def call_soon(self, callback: Callable[[], None]) -> None:
        callback()


@pytest.mark.parametrize("where", ["hook", "handler"])
async def test_no_other_connection_is_harmed(
    take: Taken, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def process_request(request: creche.Request) -> None:
        if request.path == "/hook":
            take(request.extra(SocketAttribute.raw_socket))

    async def handler(ws: creche.WebSocket) -> None:
        if ws.request.path == "/handler":
            take(ws.extra(SocketAttribute.raw_socket))
        else:
            await echo(ws)

    options: dict[str, Any] = {"process_request": process_request, "close_timeout": 0.1}
    async with creche.serving(handler, "127.0.0.1", **options) as server:
        for _ in range(3):
            with anyio.move_on_after(0.2):  # nobody hears it where it was detached
                try:
                    async with creche.connect(server.url + where, close_timeout=0.1) as ws:
                        await creche.discard(ws)
                except (creche.WebSocketError, OSError):
                    pass
            async with anyio.create_task_group() as tg:
                for _ in range(4):
                    tg.start_soon(echo_once, server.url)
    assert "report" not in caplog.text


async def echo_once(url: str) -> None:
    with anyio.fail_after(20):
        async with creche.connect(url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


@pytest.mark.parametrize("kind", OURS)
async def test_its_transport_can_be_closed(take: Taken, kind: type[SocketTransport]) -> None:
    ours, theirs = socket.socketpair()
    transport, receiver = kind(ours), Failures()
    with theirs:
        transport.start(current_engine(), receiver)
        await settle()
        take(ours)
        transport.write(b"x")
        assert [type(exc) for exc in receiver.writing] == [OSError]
        if take.keeps:
            theirs.send(b"x")
        await settle()
        transport.close()
        await settle()


def test_who_is_called_for_what_was_taken_is_called_once() -> None:
    callbacks: Any = Callbacks()
    receiver = Failures()
    ours, theirs = socket.socketpair()
    transport = CallbackSocketTransport(ours)
    with theirs:
        transport.start(callbacks, receiver)
        transport.write(bytes(2**24))
        descriptor = ours.detach()
        try:
            callbacks.readers[descriptor]()
            assert [exc.args[0] for exc in receiver.reading] == [errno.EBADF]
            assert not callbacks.readers
            callbacks.writers[descriptor]()
            assert [exc.args[0] for exc in receiver.writing] == [errno.EBADF]
            assert not callbacks.writers
            transport.resume_reading()
            transport.close()
        finally:
            os.close(descriptor)


def test_who_has_nothing_to_write_any_more_is_not_called_again() -> None:
    callbacks: Any = Callbacks()
    ours, theirs = socket.socketpair()
    with theirs:
        transport = CallbackSocketTransport(ours)
        transport.start(callbacks, Receiver())
        transport.write(bytes(2**20))
        descriptor = ours.fileno()
        while transport.waiting():
            assert descriptor in callbacks.writers
            theirs.recv(2**20)
            callbacks.writers[descriptor]()
        assert not callbacks.writers
        transport.close()
    assert not callbacks.readers


def test_the_callbacks_of_who_has_its_number_now_stay() -> None:
    callbacks: Any = Callbacks()
    ours, theirs = socket.socketpair()
    with theirs:
        transport = CallbackSocketTransport(ours)
        transport.start(callbacks, Receiver())
        transport.write(bytes(2**24))
        descriptor = ours.detach()
        callbacks.add_reader(descriptor, print)
        callbacks.add_writer(descriptor, print)
        transport.close()
        os.close(descriptor)
    assert callbacks.readers == callbacks.writers == {descriptor: print}


def test_it_is_not_waited_for_again() -> None:
    callbacks: Any = Callbacks()
    receiver = Failures()
    ours, theirs = socket.socketpair()
    with theirs:
        transport = CallbackSocketTransport(ours)
        transport.start(callbacks, receiver)
        transport.pause_reading()
        theirs.send(b"x")
        callbacks.readers[ours.fileno()]()
        assert not callbacks.readers
        ours.close()
        transport.resume_reading()
        assert [exc.args[0] for exc in receiver.reading] == [errno.EBADF]
        transport.close()
    assert not callbacks.readers


# A listening socket


async def test_a_listening_socket_that_was_taken_stops_its_server(take: Taken) -> None:
    (sock,) = await bind_tcp("127.0.0.1", 0)
    address = sock.getsockname()
    failure = pytest.raises(OSError, match="accepting failed") if take.keeps else nullcontext()
    with failure:
        async with creche.serving(echo, sockets=[sock]) as server:
            take(sock)
            if take.keeps:
                socket.create_connection(address).close()
                await until(lambda: not server._acceptors[0]._watched)
            await server.shutdown()


async def test_one_that_was_closed_in_a_pause_is_told_of() -> None:
    failures: list[Exception] = []
    (sock,) = await bind_tcp("127.0.0.1", 0)
    engine = current_engine()
    warn = RareWarning(logging.getLogger("test"), engine.now)
    acceptor = Acceptor(sock, engine, lambda *_: None, failures.append, warn)
    sock.close()
    acceptor.start()
    assert [exc.args[0] for exc in failures] == [errno.EBADF]


# The event loops


async def test_asyncio_watches_who_has_the_number_of_one_that_was_closed(
    backend_name: str,
) -> None:
    if backend_name != "asyncio":
        pytest.skip("it is asyncio's")
    called: list[str] = []
    engine: Any = current_engine()
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = ours.fileno()
        engine.add_writer(descriptor, lambda: called.append("before"))
        ours.close()
        with theirs.dup() as again:
            assert again.fileno() == descriptor
            engine.add_reader(descriptor, lambda: called.append("now"))
            await until(lambda: called)
            engine.remove_reader(descriptor)
    assert set(called) == {"now"}


# Linux's epoll


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux has epoll")
def test_epoll_forgets_what_was_closed_and_watches_who_has_its_number_now() -> None:
    called: list[str] = []
    poller = Poller(lambda callback: None)
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = ours.fileno()
        poller.add_reader(descriptor, lambda: called.append("before"))
        ours.close()
        again = theirs.dup()
        with again:
            assert again.fileno() == descriptor
            poller.add_reader(descriptor, lambda: called.append("now"))
            poller.add_writer(descriptor, lambda: called.append("writable"))
        poller.remove_writer(descriptor)
        poller.remove_reader(descriptor)
    poller.close()
    assert not called
