"""Accepting connections, whatever happens to single ones."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from creche.engine.current import current_engine
from creche.engine.polling import Readiness
from creche.transports import accepting
from creche.transports.accepting import Acceptor, RareWarning, accept_streams
from creche.transports.listening import bind_tcp, listening_address
from support import error, settle, until

pytestmark = pytest.mark.anyio

LOGGER = logging.getLogger("test")


class FakeListener:
    """A listening socket whose accept() follows a script."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.closed = False

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def fileno(self) -> int:
        return 7

    def accept(self) -> tuple[Any, str]:
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        return step, "its address"

    def close(self) -> None:
        self.closed = True


class Script:
    """An event loop without a kernel and without a clock: a socket in it is always ready."""

    def __init__(self, *steps: Any, registering: list[OSError] | None = None) -> None:
        self.readiness = self
        self.listener = FakeListener(list(steps))
        self.registering = registering or []  # what the kernel says of it
        self.readers: dict[int, Callable[[], None]] = {}
        self.pauses: list[float] = []
        self.accepted: list[Any] = []
        self.wanted: list[float | None] = []  # what is returned for those accepted
        self.failures: list[Exception] = []
        self.time = 0.0
        self._due: list[tuple[Any, float]] = []
        engine: Any = self
        sock: Any = self.listener
        warn = RareWarning(LOGGER, self.now)
        self.acceptor = Acceptor(sock, engine, self.accept, self.failures.append, warn)
        self.acceptor.start()

    def now(self) -> float:
        return self.time

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        if self.registering:
            raise self.registering.pop()
        self.readers[descriptor] = callback

    def remove_reader(self, descriptor: int) -> None:
        del self.readers[descriptor]

    def schedule(self, target: Any, deadline: float) -> None:
        self._due.append((target, deadline))

    def accept(self, sock: Any, address: Any) -> float | None:
        assert address == "its address"
        self.accepted.append(sock)
        return self.wanted.pop(0) if self.wanted else None

    def turn(self) -> None:
        """One turn of the event loop: one callback, or one pause that is sat out."""
        if self.readers:
            self.readers[7]()
        else:
            target, deadline = self._due.pop()
            self.pauses.append(round(deadline - self.time, 6))
            self.time += 0.3
            target.timeout_due(self.time)

    def run(self) -> None:
        """Accept to the end of the script."""
        while self.listener.script and not self.listener.closed:
            self.turn()


def test_running_out_of_descriptors_is_sat_out_and_logged_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    codes = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC)
    script = Script("a", *map(error, codes), "b")
    script.run()
    assert script.accepted == ["a", "b"]
    assert script.pauses == [accepting.PAUSE] * 5
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "cannot accept connections for now" in caplog.text


# What accept(2) of Linux names, and what no manual does.
OF_ONE_CONNECTION = [
    *("EPERM", "EACCES", "EPROTO", "ECONNABORTED", "ECONNRESET", "ENETDOWN", "ENETUNREACH"),
    *("EHOSTDOWN", "EHOSTUNREACH", "ENONET", "ENOPROTOOPT", "EOPNOTSUPP", "ETIMEDOUT", "ENOSR"),
    *("ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "EIO", "EPIPE", "ENODEV"),
]


@pytest.mark.parametrize("name", OF_ONE_CONNECTION)
def test_what_the_kernel_says_of_one_connection_ends_only_that_one(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script("a", error(getattr(errno, name)), "b")
    script.run()
    assert script.accepted == ["a", "b"]
    # Connections that fail must not keep others waiting for long.
    assert script.pauses == [accepting.SHORT_PAUSE]
    assert os.strerror(getattr(errno, name)) in caplog.text


@pytest.mark.parametrize("name", ["EBADF", "EINVAL", "ENOTSOCK", "EFAULT"])
def test_what_says_that_the_listening_socket_is_broken_ends_accepting(name: str) -> None:
    failure = error(getattr(errno, name))
    script = Script(failure, "a")
    script.run()
    assert script.failures == [failure]
    assert script.listener.closed
    assert (script.accepted, script.readers) == ([], {})


def test_what_a_poll_reports_for_a_while_is_sat_out() -> None:
    # Too many descriptors are watched by epoll.
    script = Script("a", registering=[error(errno.ENOSPC)])
    script.run()
    assert script.accepted == ["a"]
    assert script.pauses == [accepting.PAUSE]


def test_who_takes_connections_may_ask_for_a_pause() -> None:
    script = Script("a", "b", "c")
    script.wanted = [0.002, None]
    script.run()
    assert script.accepted == ["a", "b", "c"]
    assert script.pauses == [0.002]


def test_many_connections_at_once_give_others_their_turn() -> None:
    elsewhere = BlockingIOError()  # another process has accepted it
    script = Script(elsewhere, *range(200))
    turns = 0
    while script.listener.script:
        script.turn()
        turns += 1
    assert script.accepted == list(range(200))
    assert turns == 201
    assert script.pauses == []


class TasksOnly:
    """An event loop that does not call back when a socket is ready."""

    def __init__(self) -> None:
        engine = current_engine()
        self.readiness: Readiness | None = None
        self.now = engine.now
        self.schedule = engine.schedule
        self.start_soon = engine.start_soon


class Unwilling(TasksOnly):
    """One that says so only when it is asked, as Windows' proactor."""

    def __init__(self) -> None:
        super().__init__()
        self.readiness = self  # type: ignore[assignment]

    def add_reader(self, *_: object) -> None:
        raise NotImplementedError


class Accepting:
    """Accepts from a real socket; its clients are closed at once."""

    def __init__(self, sock: socket.socket, kind: Callable[[], Any]) -> None:
        engine = kind()
        self.accepted = 0
        self.wanted: float | None = None
        self.failures: list[Exception] = []
        warn = RareWarning(LOGGER, engine.now)
        self.acceptor = Acceptor(sock, engine, self.accept, self.failures.append, warn)
        self.acceptor.start()

    def accept(self, sock: socket.socket, _address: Any) -> float | None:
        sock.close()
        self.accepted += 1
        return self.wanted


@asynccontextmanager
async def accepting_from(kind: Callable[[], Any]) -> AsyncIterator[tuple[Accepting, Any]]:
    [sock] = await bind_tcp("127.0.0.1", 0)
    address = listening_address(sock)
    server = Accepting(sock, kind)
    try:
        yield server, address
    finally:
        server.acceptor.close()
        server.acceptor.close()
        await settle()
        assert sock.fileno() == -1
        assert server.failures == []


@pytest.mark.parametrize("kind", [current_engine, TasksOnly, Unwilling])
@pytest.mark.parametrize("wanted", [None, 0.001])
async def test_connections_are_accepted_until_it_is_closed(
    kind: Callable[[], Any], wanted: float | None
) -> None:
    async with accepting_from(kind) as (server, address):
        server.wanted = wanted
        for number in range(3):
            async with await anyio.connect_tcp(*address):
                await until(lambda: server.accepted > number)  # noqa: B023 - called here
    with pytest.raises(OSError, match="connect"):
        await anyio.connect_tcp(*address)


@pytest.mark.parametrize("kind", [current_engine, TasksOnly])
async def test_it_may_be_closed_in_a_pause(kind: Callable[[], Any]) -> None:
    async with accepting_from(kind) as (server, address):
        server.wanted = 0.001
        async with await anyio.connect_tcp(*address):
            await until(lambda: server.accepted)
    await anyio.sleep(0.005)  # the pause ends, and nothing more happens


async def test_a_task_tells_of_a_broken_socket() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # but it does not listen
        server = Accepting(sock, TasksOnly)
        await until(lambda: server.failures)
        assert sock.fileno() == -1


async def test_a_task_sits_out_what_a_poll_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [error(errno.ENOSPC)]
    wait_readable = anyio.wait_readable

    async def fails_once(sock: Any) -> None:
        if failures:
            raise failures.pop()
        await wait_readable(sock)

    monkeypatch.setattr("anyio.wait_readable", fails_once)
    monkeypatch.setattr(accepting, "PAUSE", 0.001)
    async with accepting_from(TasksOnly) as (server, address):
        async with await anyio.connect_tcp(*address):
            await until(lambda: server.accepted)
    assert failures == []


class FakeStreams:
    """A listener of AnyIO whose serve() follows a script."""

    def __init__(self, *script: Exception) -> None:
        self.script = list(script)

    async def serve(self, accepted: Any, task_group: Any) -> None:
        await anyio.lowlevel.checkpoint()
        raise self.script.pop(0)


async def test_a_listener_of_anyio_is_served_on_after_what_passes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)
    several = ExceptionGroup("two listeners", [error(errno.EPERM), error(errno.EMFILE)])
    listener: Any = FakeStreams(error(errno.EMFILE), several, anyio.ClosedResourceError())
    warn = RareWarning(LOGGER, anyio.current_time)
    async with anyio.create_task_group() as tg:
        with pytest.raises(anyio.ClosedResourceError):
            await accept_streams(listener, serve_nobody, tg, warn)
    assert pauses == [accepting.PAUSE, accepting.SHORT_PAUSE]
    assert "cannot accept connections for now" in caplog.text


async def serve_nobody(stream: anyio.abc.ByteStream) -> None:
    raise AssertionError(stream)


@pytest.mark.parametrize("failure", [error(errno.EBADF), OSError("closed"), RuntimeError("bug")])
async def test_a_listener_of_anyio_that_is_broken_is_told(failure: Exception) -> None:
    warn = RareWarning(LOGGER, anyio.current_time)
    for raised in (failure, ExceptionGroup("one listener", [failure])):
        listener: Any = FakeStreams(raised)
        async with anyio.create_task_group() as tg:
            with pytest.raises(type(failure)) as caught:
                await accept_streams(listener, serve_nobody, tg, warn)
            assert caught.value is failure
