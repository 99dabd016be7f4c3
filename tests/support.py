"""Helpers that more than one test module needs."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import os
import resource
import socket
import ssl
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import anyio
import pytest
import trio.testing
import trustme
from anyio.lowlevel import checkpoint, current_token

import creche
from creche.engine.current import current_engine
from creche.handshake.client import ClientHandshake
from creche.handshake.extensions import ExtensionFactory
from creche.handshake.server import ServerHandshake
from creche.handshake.uri import parse_uri
from creche.protocol import COMPILED
from creche.protocol.connection import Connection
from creche.protocol.frames import TEXT, FrameHeader, append_frame
from creche.protocol.masking import new_key
from creche.protocol.states import Side
from creche.testing import MemoryByteStream, memory_byte_pair
from creche.transports.sockets import SocketTransport, retry
from creche.transports.tls import TLSSocket

T = TypeVar("T")

Body = Callable[[creche.WebSocket], Awaitable[object]]

# What anyio.run() is told of each backend.
BACKENDS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
if importlib.util.find_spec("uvloop") is None:
    del BACKENDS["uvloop"]  # on Windows

# For clients that are no more than a socket.
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What a server has logged, but for where it listens."""
    return [
        record
        for record in caplog.records
        if record.name == "creche.server" and not record.getMessage().startswith("listening at ")
    ]


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes on as soon as every task waits."""

    def __init__(self) -> None:
        super().__init__()
        self._fake_time = 1000.0
        self._threads = 0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            events = select(0)
            if events or timeout == 0:
                return events
            if self._threads:  # what they do takes real time
                return select()
            self._fake_time += timeout or 0
            return events

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._fake_time

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        def end(_: object) -> None:
            self._threads -= 1

        self._threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(end)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Without the deadline that the runner gives it: here that has passed at once."""
        await super().shutdown_default_executor()


FAKE_TIME: dict[str, Callable[[], dict[str, Any]]] = {
    "asyncio": lambda: {"loop_factory": JumpingLoop},
    "trio": lambda: {"clock": trio.testing.MockClock(autojump_threshold=0)},
}


async def echo(ws: creche.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def echo_over(ours: Any, theirs: Any) -> None:
    """A client and a server over the two ends of a byte stream; a message comes back."""

    async def serve() -> None:
        async with creche.server_websocket(theirs) as ws:
            await echo(ws)

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve)
        async with creche.client_websocket(ours, "ws://localhost/") as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def settle() -> None:
    """Let every task that can run do so until it waits."""
    for _ in range(20):
        await checkpoint()


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; the test's own timeout bounds it."""
    while not condition():
        await anyio.sleep(0.001)


@asynccontextmanager
async def cancelled_once(
    condition: Callable[[], object] | None = None,
) -> AsyncIterator[anyio.CancelScope]:
    """A scope that is cancelled when the condition holds; without one, when all tasks wait."""
    async with anyio.create_task_group() as tg:
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                await (until(condition) if condition else settle())
                scope.cancel()

            tg.start_soon(cancel)
            yield scope
        tg.cancel_scope.cancel()


@dataclass
class End:
    """How one end of a connection saw it."""

    ws: creche.WebSocket | None = None
    error: BaseException | None = None

    @property
    def close_code(self) -> int | None:
        assert self.ws is not None
        return self.ws.close_code


async def two_ends(client: Body, server: Body, **options: Any) -> tuple[End, End]:
    """Run a body at each end of a connection in memory; returns how (client, server) saw it."""
    client_stream, server_stream = memory_byte_pair()
    ends = End(), End()

    async def run_end(end: End, context: Any, body: Body) -> None:
        try:
            async with context as ws:
                end.ws = ws
                await body(ws)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:
            end.error = exc

    async with anyio.create_task_group() as tg:
        uri = "ws://localhost/"
        tg.start_soon(
            run_end, ends[0], creche.client_websocket(client_stream, uri, **options), client
        )
        tg.start_soon(run_end, ends[1], creche.server_websocket(server_stream, **options), server)
    return ends


class RawPeer:
    """A peer that does what it is told, over a byte stream: for what creche itself never does."""

    def __init__(self, stream: Any, side: Side) -> None:
        self.stream = stream
        self.side = side
        self._data = b""

    async def shake_hands(
        self, extensions: Sequence[ExtensionFactory] = (), path: str = "/"
    ) -> None:
        """The peer's half of the opening handshake; a client asks for this path and offers these
        extensions."""
        if self.side is Side.CLIENT:
            client = ClientHandshake(parse_uri(f"ws://localhost{path}"), extensions=extensions)
            await self.stream.send(client.request_bytes())
            while client.receive_data(await self.stream.receive()) is None:
                pass
            self._data = client.trailing_data
        else:
            server = ServerHandshake()
            request = None
            while request is None:
                request = server.receive_data(await self.stream.receive())
            await self.stream.send(server.respond(server.accept(request)))

    def frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        out = bytearray()
        append_frame(out, opcode, payload, new_key() if self.side is Side.CLIENT else None, fin)
        return bytes(out)

    async def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        await self.stream.send(self.frame(opcode, payload, fin=fin))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        header = FrameHeader(self.side is Side.SERVER)
        while True:
            start = header.read(self._data, 0, len(self._data))
            stop = start + header.length
            if start > 0 and len(self._data) >= stop:
                payload = self._data[start:stop]
                self._data = self._data[stop:]
                if header.key is not None:
                    key = header.key
                    payload = bytes(b ^ key[i & 3] for i, b in enumerate(payload))
                return header.opcode, payload
            self._data += await self.stream.receive()

    async def receive_eof(self) -> None:
        """Read to the end of the bytes."""
        while True:
            try:
                await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return


@asynccontextmanager
async def raw_server(
    *, clogged_after: int | None = None, **options: Any
) -> AsyncIterator[tuple[creche.WebSocket, RawPeer]]:
    """A creche client and a server that does what it is told, connected in memory."""
    ours, theirs = memory_byte_pair()
    peer = RawPeer(theirs, Side.SERVER)
    async with anyio.create_task_group() as tg:
        tg.start_soon(peer.shake_hands)
        async with creche.client_websocket(ours, "ws://localhost/", **options) as ws:
            ours.clogged_after = theirs.clogged_after = clogged_after
            yield ws, peer


@asynccontextmanager
async def raw_client(url: str, path: str = "/") -> AsyncIterator[RawPeer]:
    """A client that does what it is told, connected by TCP."""
    uri = parse_uri(url)
    async with await anyio.connect_tcp(uri.host, uri.port) as stream:
        peer = RawPeer(stream, Side.CLIENT)
        await peer.shake_hands(path=path)
        yield peer


class NotedSocket:
    """A socket that notes what is asked of it: `note(ws, name, *args)`."""

    def __init__(self, sock: socket.socket, note: Callable[..., object]) -> None:
        self._sock = sock
        self._note = note

    @classmethod
    def put_under(cls, ws: creche.WebSocket, note: Callable[..., object]) -> None:
        transport: Any = ws._link.transport
        transport._sock = cls(transport._sock, partial(note, ws))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes | bytearray) -> int:
        # What may change is noted by its size.
        self._note("send", data if isinstance(data, bytes) else len(data))
        return self._sock.send(data)

    def sendmsg(self, buffers: list[Any]) -> int:
        self._note("sendmsg", *buffers)
        return self._sock.sendmsg(buffers)

    def recv_into(self, buffer: bytearray, size: int) -> int:
        self._note("recv_into", size)
        return self._sock.recv_into(buffer, size)


def count_tasks() -> int:
    """The tasks that live in this event loop."""
    native = current_token().native_token
    if isinstance(native, asyncio.AbstractEventLoop):
        return len(asyncio.all_tasks())

    return trio.lowlevel.current_statistics().tasks_living


def count_descriptors() -> int:
    """The open descriptors of this process, with those that its event loop's engine needs."""
    current_engine()
    return len(os.listdir("/proc/self/fd"))


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def resident_memory(pid: int | str = "self") -> float:
    """The resident memory of a process, in MiB."""
    return _memory(pid, "VmRSS:")


def peak_memory(pid: int | str = "self") -> float:
    """The most resident memory that a process has had, in MiB."""
    return _memory(pid, "VmHWM:")


def _memory(pid: int | str, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(name)[2].split()[0]) / 1024


class Cost(NamedTuple):
    """What a call has cost, the same on every machine.

    Attributes:
        instructions: of Python's, executed.
        allocated: bytes, also of what was freed at once. What C copies is counted by this.
    """

    instructions: int
    allocated: int


# More than `count_cost` itself allocates with each instruction, in bytes.
_OF_TRACING = 160


def count_cost(function: Callable[[], object]) -> Cost:
    """Call a function of the pure build, and count what it does in this thread."""
    instructions = allocated = held = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal instructions, allocated, held
        # What the last instruction has allocated at most at a time, without what this has.
        allocated += max(tracemalloc.get_traced_memory()[1] - held - _OF_TRACING, 0)
        frame.f_trace = trace  # before what is asked of it: 3.13 looks whether there is one
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        instructions += event == "opcode"
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        return trace

    traced_before, tracing = sys.gettrace(), tracemalloc.is_tracing()
    gc.collect()
    gc.disable()
    if not tracing:
        tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    # From 3.12 on instructions are only told if somebody has asked for them before.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(traced_before)
        if not tracing:
            tracemalloc.stop()
        gc.enable()
    return Cost(instructions, allocated)


def assert_linear(
    make_input: Callable[[int], T], run: Callable[[T], object], size: int = 200
) -> None:
    """Assert that what `run` does grows no faster than its input.

    It is run with inputs of `size`, twice and four times as much: the second step may cost twice
    the first, and not four times. Only what Python executes and allocates is counted. A search by
    `find`, `in` or a regular expression is not: of those, test one so long that it would not end
    in hours if it looked at the same bytes again and again.

    Args:
        make_input: makes an input of a size: bytes, fields, pieces or what is to be doubled.
        run: what is counted; it may change the input, which is a new one each time.
        size: the smallest. It should be so large that a square would show, and no larger.
    """
    if COMPILED:
        pytest.skip("what compiled code does cannot be counted; its source is the same")
    run(make_input(size))  # what is made once only, such as caches
    first = [count_cost(partial(run, make_input(size << doubled))) for doubled in range(3)]
    if _is_linear(first):
        return
    # What was made once only, in the middle of it, is not made again.
    again = [count_cost(partial(run, make_input(size << doubled))) for doubled in range(3)]
    costs = [Cost(*map(min, one, other)) for one, other in zip(first, again, strict=True)]
    assert _is_linear(costs), costs


def _is_linear(costs: Sequence[Cost]) -> bool:
    # Tables grow in leaps: what does not grow at all may still vary a little.
    for name, leap in ("instructions", 100), ("allocated", 16384):
        small, middle, large = (getattr(cost, name) for cost in costs)
        step = max(middle - small, 0)
        if large - middle > 2.5 * step + 0.1 * middle + leap:
            return False
    return True


def make_tls(ca_file: Path | None = None) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server on loopback and of a client that trusts it; `ca_file` is where to
    leave the certificate that it trusts, for another process."""
    ca = trustme.CA()
    if ca_file is not None:
        ca.cert_pem.write_to_path(str(ca_file))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return server, client


def pin(core: int, pid: int = 0) -> None:
    """Keep a process, this one by default, on one core, where there are two to choose from."""
    cores = sorted(os.sched_getaffinity(pid))
    os.sched_setaffinity(pid, {cores[core % len(cores)]})


def connect_socket(port: int, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A blocking socket, connected to a server on loopback."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    return sock if tls is None else tls.wrap_socket(sock, server_hostname="localhost")


def open_socket(
    port: int,
    path: str = "/",
    tls: ssl.SSLContext | None = None,
    request: bytes = REQUEST,
) -> socket.socket:
    """The same after the opening handshake of a WebSocket."""
    sock = connect_socket(port, tls)
    sock.sendall(request.replace(b" / ", f" {path} ".encode()))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        if not data:
            sock.close()
            raise ConnectionError("refused")
        head += data
    if not head.startswith(b"HTTP/1.1 101 "):
        sock.close()
        raise ConnectionError(head.decode())
    return sock


class BlockingClient:
    """A client on a blocking socket, until `selectors` drives it.

    Attributes:
        messages: what it has received and `receive` has not returned.
    """

    def __init__(self, port: int, path: str = "/", tls: ssl.SSLContext | None = None) -> None:
        self.messages: list[str | bytes] = []
        self.connection = Connection(
            Side.CLIENT, bytearray(), 0, max_queue=None, max_queue_bytes=None
        )
        self.sock = open_socket(port, path, tls)

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, message: str) -> None:
        self.connection.send_message(TEXT, message.encode())
        self._write()

    def read(self) -> bool:
        """Take what is there; returns whether there may be more."""
        data = self.sock.recv(65536)
        connection = self.connection
        connection.receive_data(data, 0)
        while (message := connection.next_message(0)) is not None:
            self.messages.append(message)
        self._write()
        return bool(data)

    def receive(self) -> str | bytes:
        """The next message."""
        while not self.messages:
            assert self.read(), "the server has closed"
        return self.messages.pop(0)

    def read_to_the_end(self) -> int | None:
        """Read on until the server has closed; returns its close code."""
        while self.read():
            pass
        received = self.connection.received
        return None if received is None else received.code

    def _write(self) -> None:
        if self.connection.outbox:
            self.sock.sendall(self.connection.outbox)
            self.connection.outbox.clear()


def error(code: int) -> OSError:
    """What the kernel says with a number of `errno`."""
    return OSError(code, os.strerror(code))


async def greeted(sock: socket.socket, context: ssl.SSLContext) -> SocketTransport:
    """The transport of a server's socket after the TLS handshake, to be used by a task."""
    tls = TLSSocket(sock, context, server_side=True)
    try:
        await retry(tls, tls.do_handshake)
    except BaseException:
        tls.close()
        raise
    return SocketTransport(tls)


@contextmanager
def filled(path: Path) -> Iterator[None]:
    """Clients of a Unix socket as many as wait there to be accepted."""
    with ExitStack() as stack:
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        yield


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


__all__ = [
    "BACKENDS",
    "FAKE_TIME",
    "REQUEST",
    "BlockingClient",
    "End",
    "MemoryByteStream",
    "RawPeer",
    "assert_linear",
    "connect_socket",
    "count_cost",
    "count_descriptors",
    "count_tasks",
    "echo",
    "echo_over",
    "filled",
    "free_port",
    "make_tls",
    "open_socket",
    "pin",
    "raise_descriptor_limit",
    "raw_client",
    "raw_server",
    "resident_memory",
    "settle",
    "two_ends",
    "until",
]
