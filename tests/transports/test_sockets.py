from __future__ import annotations

import errno
import random
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from creche.engine.current import current_engine
from creche.engine.engine import Engine
from creche.engine.polling import Readiness
from creche.engine.read_buffer import read_buffer
from creche.transports import sockets
from creche.transports.attributes import SocketAttributes
from creche.transports.base import NOBODY, READ_SIZE, Receiver
from creche.transports.callback_sockets import CallbackSocketTransport
from creche.transports.sockets import SocketTransport, retry
from creche.transports.tls import TLS_RECORD, TLSSocket
from support import greeted, settle, until

pytestmark = pytest.mark.anyio

MEGABYTE = bytes(range(256)) * 4096


class Recorder(Receiver):
    """A receiver that writes down what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.eof = False
        self.errors: list[Exception] = []
        self.write_errors: list[Exception] = []
        self.left = 0
        self.on_data: Callable[[], object] = lambda: None

    def data_received(self, data: bytearray, size: int) -> None:
        self.data += data[:size]
        self.on_data()

    def eof_received(self) -> None:
        self.eof = True

    def output_left(self) -> None:
        self.left += 1

    def read_failed(self, exc: Exception) -> None:
        self.errors.append(exc)

    def write_failed(self, exc: Exception) -> None:
        self.write_errors.append(exc)


Kind = Callable[[socket.socket | TLSSocket], SocketTransport]


@pytest.fixture(params=["any backend", "this loop"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Both ways of waiting: plain AnyIO calls, and what suits the loop that runs."""
    return SocketTransport if request.param == "any backend" else CallbackSocketTransport


@asynccontextmanager
async def connected(
    kind: Kind, server_tls: ssl.SSLContext | None = None, client_tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[SocketTransport, socket.socket, Recorder, Engine]]:
    """A transport that has not been started, and a blocking socket at the other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    theirs.settimeout(10)
    if server_tls is None or client_tls is None:
        transport = kind(ours)
    else:
        ours_tls, theirs = await tls_pair(ours, theirs, server_tls, client_tls)
        transport = kind(ours_tls)
    try:
        engine = current_engine()
        yield transport, theirs, Recorder(), engine
        transport.close()
    finally:
        theirs.close()


async def tls_pair(
    ours: socket.socket,
    theirs: socket.socket,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> tuple[TLSSocket, ssl.SSLSocket]:
    """TLS over two connected sockets; the other end's is blocking."""
    tls_ours = TLSSocket(ours, server_tls, server_side=True)
    tls_theirs: list[ssl.SSLSocket] = []

    def connect() -> None:
        tls_theirs.append(client_tls.wrap_socket(theirs, server_hostname="localhost"))

    async with anyio.create_task_group() as tg:
        tg.start_soon(in_thread, connect)
        await retry(tls_ours, tls_ours.do_handshake)
    return tls_ours, tls_theirs[0]


@pytest.fixture(params=["plain", "tls"])
async def pair(
    request: pytest.FixtureRequest,
    kind: Kind,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    anyio_backend: Any,
) -> Any:
    """What `connected` needs, plain or TLS."""
    if request.param == "plain":
        return (kind,)
    return (kind, server_tls, client_tls)


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *args)


def read_all(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := sock.recv(2**16)):
        data += more
    return bytes(data)


# Both kinds, plain and TLS


async def test_before_start_bytes_are_received_and_drained(pair: Any) -> None:
    async with connected(*pair) as (transport, theirs, _, _):
        async with anyio.create_task_group() as tg:

            async def later() -> None:
                await settle()
                theirs.sendall(b"hello")

            tg.start_soon(later)
            assert await transport.receive() == b"hello"
            transport.outbox += MEGABYTE * 8
            tg.start_soon(transport.drain)
            assert await in_thread(read_all, theirs, len(MEGABYTE) * 8) == MEGABYTE * 8
        assert transport.bytes_sent == len(MEGABYTE) * 8
        theirs.close()
        assert await transport.receive() == b""


async def test_what_arrives_is_reported_and_so_is_the_end(pair: Any) -> None:
    async with connected(*pair) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        await in_thread(theirs.sendall, MEGABYTE)
        await until(lambda: len(recorder.data) == len(MEGABYTE))
        assert recorder.data == MEGABYTE
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: recorder.eof)
        await settle()
        assert recorder.errors == []


async def test_what_is_flushed_leaves_in_order_though_the_kernel_refuses(pair: Any) -> None:
    async with connected(*pair) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        transport.outbox += b"first"
        transport.flush()
        assert not transport.outbox
        for _ in range(16):
            transport.outbox += MEGABYTE
            transport.flush()
        assert transport.outbox
        assert transport.unsent() > 0
        expected = b"first" + MEGABYTE * 16
        assert await in_thread(read_all, theirs, len(expected)) == expected
        await until(lambda: not transport.outbox)
        assert recorder.left > 0
        assert transport.bytes_sent == len(expected)


async def test_what_is_written_follows_the_outbox_though_the_kernel_takes_some_only(
    pair: Any,
) -> None:
    async with connected(*pair) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        transport.write(b"first")
        transport.outbox += b"second"
        transport.write(memoryview(b"third"))
        assert not transport.waiting()
        for _ in range(16):
            transport.write(MEGABYTE)
        assert transport.waiting()
        expected = b"firstsecondthird" + MEGABYTE * 16
        assert await in_thread(read_all, theirs, len(expected)) == expected
        await until(lambda: not transport.waiting())
        assert transport.bytes_sent == len(expected)


@pytest.mark.parametrize("method", ["write", "write_small"])
async def test_what_the_kernel_refuses_at_once_is_written_later(kind: Kind, method: str) -> None:
    async with connected(kind) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        filled = 0
        with pytest.raises(BlockingIOError):
            while True:
                filled += transport._sock.send(MEGABYTE)
        getattr(transport, method)(b"refused")
        assert transport.waiting() == 7
        received = await in_thread(read_all, theirs, filled + 7)
        assert received[filled:] == b"refused"


class Reluctant:
    """A socket whose kernel takes what it likes of a write, or nothing."""

    def __init__(self, sock: Any, rng: random.Random) -> None:
        self._sock = sock
        self._rng = rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _limit(self, size: int) -> int:
        taken = self._rng.choice([0, self._rng.randint(1, size), size])
        if not taken:
            raise BlockingIOError
        return taken

    def send(self, data: bytearray | memoryview) -> int:
        size: int = self._sock.send(data[: self._limit(len(data))])
        return size

    def sendmsg(self, buffers: list[Any]) -> int:
        return self.send(bytearray().join(buffers))


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_the_kernel_takes_of_what_is_written_all_leaves_in_order(
    pair: Any, seed: int
) -> None:
    rng = random.Random(seed)
    async with connected(*pair) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        if isinstance(transport._sock, TLSSocket):
            transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        else:
            transport._sock = Reluctant(transport._sock, rng)
        expected = bytearray()
        for number in range(200):
            data = bytes([number]) * rng.choice([1, 100, 5000, 100_000])
            expected += data
            how = rng.randrange(5)
            if how == 0:
                transport.write(data)
            elif how == 4:
                transport.write_small(data)
            elif how == 1:
                own = bytearray(data)
                transport.write(memoryview(own))
                own[:] = bytes(len(own))  # its owner may change it from now on
            else:
                transport.outbox += data
                if how == 2:
                    transport.flush()
            if rng.random() < 0.1:
                await settle()
        transport.flush()
        assert await in_thread(read_all, theirs, len(expected)) == expected
        await until(lambda: transport.bytes_sent == len(expected))
        assert transport.waiting() == 0
        assert transport.payloads(9) == []


async def test_a_payload_that_has_to_wait_is_not_copied(pair: Any) -> None:
    payload = MEGABYTE * 16
    async with connected(*pair) as (transport, _, recorder, engine):
        transport.start(engine, recorder)
        transport.outbox += b"header"
        transport.write(payload)
        assert [kept is payload for kept in transport.payloads(9)] == [True]
        assert 0 < transport.waiting() <= len(payload)
        transport.close()
        assert transport.waiting() == 0
        assert transport.payloads(9) == []


async def test_nothing_is_read_while_paused(pair: Any) -> None:
    async with connected(*pair) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        transport.pause_reading()
        await settle()
        theirs.sendall(b"x" * 10)
        await settle()
        assert not recorder.data
        transport.resume_reading()
        transport.resume_reading()
        await until(lambda: recorder.data)
        assert recorder.data == b"x" * 10


async def test_a_shutdown_of_writing_is_seen_as_an_end_and_reading_goes_on(pair: Any) -> None:
    async with connected(*pair) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        transport.send_eof()
        transport.send_eof()
        assert await in_thread(theirs.recv, 10) == b""
        transport.outbox += b"too late"
        transport.flush()
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: recorder.eof)
        assert transport.outbox == b"too late"


async def test_an_abort_resets_the_connection(pair: Any) -> None:
    async with connected(*pair) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        transport.outbox += MEGABYTE * 16
        transport.flush()
        transport.abort()
        transport.abort()
        assert transport.closed
        assert transport.unsent() == 0

        def read_to_the_end() -> str:
            try:
                read_all(theirs, 2**30)
            except ConnectionResetError:
                return "reset"
            return "end"

        # Python before 3.13 tells a reset below TLS as an end.
        tls_on_old_python = len(pair) > 1 and sys.version_info < (3, 13)
        assert await in_thread(read_to_the_end) == ("end" if tls_on_old_python else "reset")
        await settle()
        assert (recorder.eof, recorder.errors) == (False, [])


async def test_a_reset_by_the_peer_is_reported_once(pair: Any) -> None:
    async with connected(*pair) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        await until(lambda: recorder.errors or recorder.eof)
        await settle()
        if len(pair) == 1:
            assert [type(exc) for exc in recorder.errors] == [ConnectionResetError]
            assert not recorder.eof
        transport.resume_reading()
        transport.send_eof()


async def test_a_failed_write_is_reported_and_is_not_the_end_of_reading(pair: Any) -> None:
    async with connected(*pair) as (transport, _, recorder, engine):
        transport.start(engine, recorder)
        transport._sock.shutdown(socket.SHUT_WR)
        transport.outbox += b"x"
        transport.flush()
        transport.write(b"y")
        transport.write_small(b"z")
        assert [type(exc) for exc in recorder.write_errors] == [BrokenPipeError] * 3
        assert not transport.outbox
        assert not recorder.errors


async def test_closing_wakes_whoever_waits_and_leaves_no_task(pair: Any) -> None:
    async with connected(*pair) as (transport, _, recorder, engine):
        await settle()
        tasks = len(anyio.get_running_tasks())
        transport.start(engine, recorder)
        transport.outbox += MEGABYTE * 16
        transport.flush()
        await settle()
        transport.close()
        await until(lambda: len(anyio.get_running_tasks()) == tasks)


async def test_the_addresses_are_known_after_the_end_too(pair: Any) -> None:
    async with connected(*pair) as (transport, theirs, _, _):
        attributes = transport.extra_attributes
        if len(pair) > 1:
            assert attributes[TLSAttribute.peer_certificate_binary]() is None
        transport.close()
        address = theirs.getsockname()
        assert attributes[SocketAttribute.remote_address]() == address
        assert attributes[SocketAttribute.remote_port]() == address[1]
        assert attributes[SocketAttribute.family]() == socket.AF_INET
        if len(pair) > 1:
            assert attributes[SocketAttribute.raw_socket]() is transport._sock.plain
            assert attributes[TLSAttribute.server_side]() is True
            assert attributes[TLSAttribute.ssl_object]() is transport._sock.ssl_object
        else:
            assert attributes[SocketAttribute.raw_socket]() is transport._sock
            assert TLSAttribute.server_side not in attributes


def test_addresses_of_a_socket_without_a_peer_are_left_out() -> None:
    with socket.socket() as sock:
        attributes = SocketAttributes(sock)
        assert SocketAttribute.remote_address not in attributes
        assert SocketAttribute.local_address in attributes
        assert len(attributes) == len(list(attributes)) == 4


async def test_small_messages_are_not_held_back(pair: Any) -> None:
    async with connected(*pair) as (transport, _, _, _):
        sock = transport.extra_attributes[SocketAttribute.raw_socket]()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.gettimeout() == 0


async def test_each_event_loop_reads_into_a_buffer_of_its_own() -> None:
    def other_loop() -> int:
        async def get() -> int:
            return id(read_buffer())

        return anyio.run(get)

    assert read_buffer() is read_buffer()
    assert await in_thread(other_loop) != id(read_buffer())


# What is peculiar about TLS


async def test_tls_bytes_that_are_decrypted_already_are_read_after_a_pause(
    kind: Kind, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with connected(kind, server_tls, client_tls) as (transport, theirs, recorder, engine):
        # Read a byte at a time, so that the rest of the record stays decrypted.
        engine.read_buffer = bytearray(1)
        transport.start(engine, recorder)
        recorder.on_data = transport.pause_reading
        theirs.sendall(b"abc")
        for expected in (b"a", b"ab", b"abc"):
            await until(lambda expected=expected: recorder.data == expected)  # type: ignore[misc]
            transport.resume_reading()


async def test_tls_bytes_that_need_many_reads_are_read_in_many_turns(
    kind: Kind, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with connected(kind, server_tls, client_tls) as (transport, theirs, recorder, engine):
        engine.read_buffer = bytearray(1)
        transport.start(engine, recorder)
        theirs.sendall(b"abcdefgh")
        await until(lambda: recorder.data == b"abcdefgh")


async def test_tls_bytes_that_came_with_the_handshake_are_read_at_the_start(
    kind: Kind, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with connected(kind, server_tls, client_tls) as (transport, theirs, recorder, engine):
        theirs.sendall(b"abc")
        while not transport._sock.pending():  # decrypts the record, but takes one byte only
            try:
                assert transport._sock.recv(1) == b"a"
            except ssl.SSLWantReadError:
                await settle()
        transport.start(engine, recorder)
        await until(lambda: recorder.data == b"bc")


async def test_much_tls_input_gives_others_their_turn(
    kind: Kind, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with connected(kind, server_tls, client_tls) as (transport, theirs, recorder, engine):
        sizes = []
        recorder.on_data = lambda: sizes.append(len(recorder.data))
        transport.start(engine, recorder)
        await in_thread(theirs.sendall, MEGABYTE[: 2**19])
        await until(lambda: len(recorder.data) == 2**19)
        assert recorder.data == MEGABYTE[: 2**19]
        assert len(sizes) >= 2**19 // READ_SIZE


async def test_tls_ends_with_a_close_notify(
    kind: Kind, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        stream = await anyio.connect_tcp(*listener.getsockname())
        accepted, _ = listener.accept()

    async def server() -> None:
        transport = await greeted(accepted, server_tls)
        transport.send_eof()
        with anyio.move_on_after(1):
            while await transport.receive():
                pass
        transport.close()

    async with anyio.create_task_group() as tg:
        tg.start_soon(server)
        # standard_compatible: the end without a close_notify would be an error
        client = await TLSStream.wrap(
            stream, hostname="localhost", ssl_context=client_tls, standard_compatible=True
        )
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await anyio.aclose_forcefully(client)


class FakeTLS(TLSSocket):
    """A TLSSocket whose calls follow a script: an exception to raise, or None to go on."""

    reads: list[Exception | bytes]
    writes: list[Exception | None]
    sent: list[bytes]

    def pending(self) -> bool:
        return False

    def keep(self) -> None:
        pass

    def recv_into(self, buffer: Any, size: int) -> int:
        step = self.reads.pop(0) if self.reads else ssl.SSLWantReadError()
        if isinstance(step, Exception):
            raise step
        buffer[: len(step)] = step
        return len(step)

    def send(self, data: Any) -> int:
        data = data[:TLS_RECORD]
        self.sent.append(bytes(data))
        step = self.writes.pop(0) if self.writes else None
        if step is not None:
            raise step
        return len(data)


@asynccontextmanager
async def scripted(
    kind: Kind,
    reads: list[Exception | bytes] | None = None,
    writes: list[Exception | None] | None = None,
) -> AsyncIterator[tuple[SocketTransport, FakeTLS, Recorder, Engine, socket.socket]]:
    """A transport over a FakeTLS that the kernel always finds writable."""
    ours, theirs = socket.socketpair()
    fake = FakeTLS.__new__(FakeTLS)
    fake.plain = ours
    fake.reads, fake.writes, fake.sent = reads or [], writes or [], []
    transport = kind(fake)
    engine = current_engine()
    with theirs:
        yield transport, fake, Recorder(), engine, theirs
        transport.close()


async def test_tls_repeats_the_very_same_bytes(kind: Kind) -> None:
    writes: list[Exception | None] = [None, ssl.SSLWantWriteError(), ssl.SSLWantWriteError()]
    async with scripted(kind, writes=writes) as (transport, fake, recorder, engine, _):
        transport.start(engine, recorder)
        data = MEGABYTE[: TLS_RECORD * 2 + 5]
        transport.outbox += data
        transport.flush()
        transport.outbox += b"more"
        transport.flush()  # somebody waits for the kernel already
        await until(lambda: not transport.outbox)
        first, second = data[:TLS_RECORD], data[TLS_RECORD : 2 * TLS_RECORD]
        assert fake.sent == [first, second, second, second, data[2 * TLS_RECORD :] + b"more"]


async def test_a_tls_write_that_wants_to_read_is_repeated_after_a_read(kind: Kind) -> None:
    async with scripted(kind, writes=[ssl.SSLWantReadError()]) as (
        transport,
        fake,
        recorder,
        engine,
        theirs,
    ):
        transport.start(engine, recorder)
        await settle()
        transport.outbox += b"x"
        transport.flush()
        assert transport.outbox
        fake.reads = [b"key update"]
        theirs.send(b"!")
        await until(lambda: fake.sent == [b"x", b"x"])


async def test_a_tls_read_that_wants_to_write_is_repeated_once_writable(kind: Kind) -> None:
    reads: list[Exception | bytes] = [ssl.SSLWantWriteError(), b"data"]
    async with scripted(kind, reads=reads) as (transport, _, recorder, engine, _):
        transport.start(engine, recorder)
        await until(lambda: recorder.data == b"data")


async def test_a_tls_read_that_wants_to_write_waits_together_with_a_write(kind: Kind) -> None:
    reads: list[Exception | bytes] = [ssl.SSLWantWriteError(), b"data"]
    async with scripted(kind, reads=reads, writes=[ssl.SSLWantWriteError()]) as (
        transport,
        fake,
        recorder,
        engine,
        _,
    ):
        transport._tls = False  # read nothing at the start
        transport.start(engine, recorder)
        transport._tls = True
        transport.outbox += b"x"
        transport.flush()
        transport._read_ready()
        await until(lambda: recorder.data == b"data" and not transport.outbox)
        assert fake.sent == [b"x", b"x"]


async def test_before_start_tls_waits_for_what_it_wants(kind: Kind) -> None:
    writes: list[Exception | None] = [ssl.SSLWantWriteError(), ssl.SSLWantReadError()]
    async with scripted(kind, writes=writes) as (transport, fake, _, _, theirs):
        theirs.send(b"!")
        transport.outbox += b"x"
        await transport.drain()
        assert fake.sent == [b"x"] * 3

        steps: list[Any] = [ssl.SSLWantWriteError(), ssl.SSLWantReadError()]

        def operation() -> str:
            if steps:
                raise steps.pop(0)
            return "done"

        assert await sockets.retry(fake, operation) == "done"


# What suits the loop


async def test_where_somebody_calls_back_no_task_waits_for_a_socket() -> None:
    async with connected(CallbackSocketTransport) as (transport, _, recorder, engine):
        await settle()
        tasks = len(anyio.get_running_tasks())
        transport.start(engine, recorder)
        await settle()
        assert len(anyio.get_running_tasks()) == tasks


class WithoutReaders(CallbackSocketTransport):
    """On a loop without add_reader."""

    def _add_reader(self, readiness: Readiness) -> None:
        raise NotImplementedError


async def test_a_loop_without_reader_callbacks_is_served_as_any_backend() -> None:
    ours, theirs = socket.socketpair()
    transport = WithoutReaders(ours)
    recorder = Recorder()
    engine = current_engine()
    with theirs:
        transport.start(engine, recorder)
        theirs.send(b"x")
        await until(lambda: recorder.data == b"x")
        transport.pause_reading()
        transport.resume_reading()
        transport.outbox += MEGABYTE
        transport.flush()
        assert await in_thread(read_all, theirs, len(MEGABYTE)) == MEGABYTE
        transport.close()


class Crowded:
    """A Readiness that has no room for another socket, from a moment on."""

    def __init__(self, readiness: Readiness, monkeypatch: pytest.MonkeyPatch) -> None:
        self._readiness = readiness
        self._monkeypatch = monkeypatch
        self.full = False

    def fill(self) -> None:
        async def wait(_: object) -> None:
            self.refuse()

        self.full = True
        self._monkeypatch.setattr(anyio, "wait_readable", wait)
        self._monkeypatch.setattr(anyio, "wait_writable", wait)

    def refuse(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "no room for another socket")

    def __getattr__(self, name: str) -> Any:
        if self.full and name.startswith("add_"):
            return self.refuse
        return getattr(self._readiness, name)


@asynccontextmanager
async def crowded(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[SocketTransport, socket.socket, Recorder, Engine, Crowded]]:
    async with connected(kind) as (transport, theirs, recorder, engine):
        assert engine.readiness is not None
        engine.readiness = loop = Crowded(engine.readiness, monkeypatch)
        yield transport, theirs, recorder, engine, loop


async def test_a_socket_that_cannot_be_waited_for_is_lost(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowded(kind, monkeypatch) as (transport, theirs, recorder, engine, loop):
        loop.fill()
        theirs.send(b"x")
        transport.start(engine, recorder)
        await until(lambda: recorder.errors)
        await settle()
        assert [exc.errno for exc in recorder.errors if isinstance(exc, OSError)] == [errno.ENOSPC]


async def test_a_socket_that_cannot_be_waited_for_after_a_pause_is_lost(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowded(kind, monkeypatch) as (transport, theirs, recorder, engine, loop):
        transport.start(engine, recorder)
        transport.pause_reading()
        theirs.send(b"x")
        await settle()
        loop.fill()
        transport.resume_reading()
        await until(lambda: recorder.errors)
        assert isinstance(recorder.errors[0], OSError)
        assert recorder.errors[0].errno == errno.ENOSPC


async def test_a_socket_that_cannot_be_waited_for_to_write_has_failed_to(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowded(kind, monkeypatch) as (transport, theirs, recorder, engine, loop):
        transport.start(engine, recorder)
        await settle()
        loop.fill()
        for _ in range(2):
            transport.outbox += MEGABYTE * 20
            transport.flush()
            await until(lambda: recorder.write_errors)
            assert transport.waiting() == 0
            assert isinstance(recorder.write_errors[0], OSError)
            assert recorder.write_errors.pop().args[0] == errno.ENOSPC
        theirs.send(b"x")
        await until(lambda: recorder.data == b"x")


async def test_what_the_kernel_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport = SocketTransport(ours)

        def refuse(*args: Any) -> None:
            raise OSError(errno.ENOTTY, "no such ioctl")

        monkeypatch.setattr(sockets, "ioctl", refuse)
        assert transport.unsent() == 0
        monkeypatch.setattr(sockets, "ioctl", None)
        assert transport.unsent() == 0
        transport.close()


async def test_after_the_end_nobody_is_told_anything() -> None:
    NOBODY.data_received(bytearray(), 0)
    NOBODY.eof_received()
    NOBODY.output_left()
    NOBODY.read_failed(OSError())
    NOBODY.write_failed(OSError())
    assert NOBODY.payload_left() == 0


async def test_an_abort_where_so_linger_is_unknown_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(SocketTransport) as (transport, fake, _, _, theirs):

        def refuse(*args: Any) -> None:
            raise OSError(errno.ENOPROTOOPT, "no such option")

        monkeypatch.setattr(fake, "setsockopt", refuse, raising=False)
        transport.abort()
        assert theirs.recv(1) == b""


def read_to_the_end(sock: socket.socket) -> None:
    try:
        while sock.recv(len(MEGABYTE)):
            pass
    except ConnectionResetError:
        pass


async def test_what_goes_wrong_in_a_receiver_ends_its_connection_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mistaken(Recorder):
        def data_received(self, data: bytearray, size: int) -> None:
            raise KeyError("a bug")

        def output_left(self) -> None:
            raise KeyError("a bug")

    for write in (False, True):
        caplog.clear()
        recorder = Mistaken()
        async with connected(CallbackSocketTransport) as (transport, theirs, _, engine):
            transport.start(engine, recorder)
            if write:
                transport.outbox += MEGABYTE * 16
                transport.flush()
                await in_thread(read_to_the_end, theirs)
            else:
                theirs.send(b"x")
            await until(lambda: transport.closed)
            assert [type(exc) for exc in recorder.errors] == [KeyError]
        assert len(caplog.records) == 1


async def test_a_receiver_that_cannot_be_told_of_a_mistake_is_closed_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mistaken(Recorder):
        def data_received(self, data: bytearray, size: int) -> None:
            raise KeyError("a bug")

        def read_failed(self, exc: Exception) -> None:
            raise KeyError("another")

    async with connected(CallbackSocketTransport) as (transport, theirs, _, engine):
        transport.start(engine, Mistaken())
        theirs.send(b"x")
        await until(lambda: transport.closed)
    assert len(caplog.records) == 2


async def test_nothing_is_read_before_the_greeting_is_done(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    engine = current_engine()
    recorder = Recorder()
    ours, theirs = socket.socketpair()
    server = TLSSocket(theirs, server_tls, server_side=True)
    client = TLSSocket(ours, client_tls, server_hostname="localhost")
    steps: list[Exception] = [ssl.SSLWantWriteError(), ssl.SSLWantReadError()]

    def greet() -> None:
        if steps:
            raise steps.pop(0)
        server.do_handshake()

    transport = CallbackSocketTransport(server, None, greet)
    transport.start(engine, recorder)
    with anyio.fail_after(20):
        await retry(client, client.do_handshake)
        client.send(b"x")
        await until(lambda: recorder.data == b"x")
    assert steps == []
    transport.close()
    client.close()


async def test_a_greeting_that_fails_is_told() -> None:
    def greet() -> None:
        raise ssl.SSLError("no")

    ours, theirs = socket.socketpair()
    recorder = Recorder()
    server = TLSSocket(theirs, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True)
    transport = CallbackSocketTransport(server, None, greet)
    transport.start(current_engine(), recorder)
    with ours:
        await until(lambda: recorder.errors)
    assert [type(exc) for exc in recorder.errors] == [ssl.SSLError]
    transport.close()


class WithoutReadiness:
    """Where nobody calls back."""

    readiness: Readiness | None = None

    def __init__(self, engine: Engine) -> None:
        self.read_buffer = engine.read_buffer
        self.start_soon = engine.start_soon


async def test_where_nobody_calls_back_a_task_waits_for_the_socket() -> None:
    async with connected(CallbackSocketTransport) as (transport, theirs, recorder, engine):
        transport.start(WithoutReadiness(engine), recorder)
        assert not transport.read_now()
        theirs.send(b"x")
        await until(lambda: recorder.data == b"x")


async def test_the_end_of_the_loop_is_told_to_who_waits_for_bytes() -> None:
    async with connected(SocketTransport) as (transport, _, recorder, engine):
        transport._receiver, transport._tasks = recorder, engine
        async with anyio.create_task_group() as tg:
            tg.start_soon(transport._read_all)
            await settle()
            tg.cancel_scope.cancel()
        assert [type(exc) for exc in recorder.errors] == [ConnectionAbortedError]


async def test_what_goes_wrong_with_what_is_pending_ends_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mistaken(Recorder):
        def reading_done(self) -> None:
            raise KeyError("a bug")

    async with connected(CallbackSocketTransport) as (transport, _, _, engine):
        assert isinstance(transport, CallbackSocketTransport)
        transport.start(engine, Mistaken())
        transport._on_pending()
        assert transport.closed
    assert len(caplog.records) == 1


# What mutants have shown to be untold


async def test_much_plain_input_gives_others_their_turn(kind: Kind) -> None:
    async with connected(kind) as (transport, theirs, recorder, engine):
        engine.read_buffer = bytearray(100)
        theirs.sendall(bytes(1000))
        sizes: list[int] = []
        recorder.on_data = lambda: sizes.append(len(recorder.data))
        transport.start(engine, recorder)
        transport.pause_reading()
        await settle()
        transport.resume_reading()
        transport._read_ready()
        assert sizes == [100, 200]
        await until(lambda: len(recorder.data) == 1000)


async def test_one_task_waits_until_a_socket_is_writable() -> None:
    class Counting:
        readiness = None
        read_buffer = bytearray(100)
        started = 0

        def start_soon(self, function: Callable[..., Any], *args: Any) -> None:
            self.started += function.__name__ == "_write_later"

    async with connected(SocketTransport) as (transport, _, recorder, _engine):
        tasks: Any = Counting()
        transport.start(tasks, recorder)
        for _ in range(3):
            transport.outbox += bytes(2**24)
            transport.flush()
        assert tasks.started == 1


async def test_what_was_detached_is_not_closed(kind: Kind) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport = kind(ours)
        sock = transport.detach()
        transport.close()
        assert sock is ours
        assert sock.fileno() >= 0
        sock.close()


async def test_what_tls_keeps_is_counted(
    kind: Kind, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with connected(kind, server_tls, client_tls) as (transport, _, recorder, engine):
        transport.start(engine, recorder)
        transport.outbox += MEGABYTE * 20
        transport.flush()
        assert transport.kept_below() > 0
    async with connected(kind) as (transport, _, recorder, engine):
        transport.start(engine, recorder)
        assert transport.kept_below() == 0


async def test_who_calls_back_can_read_at_once() -> None:
    async with connected(CallbackSocketTransport) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        theirs.send(b"x")
        while not recorder.data:
            assert transport.read_now()
    async with connected(SocketTransport) as (transport, theirs, recorder, engine):
        transport.start(engine, recorder)
        assert not transport.read_now()
