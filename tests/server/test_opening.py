"""The opening handshake at a server, whatever its client does and whenever it goes."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from anyio.abc import ByteStream, SocketStream, TaskGroup

import creche
from creche.connection import answering
from creche.engine.current import current_engine
from creche.server import server as server_module
from creche.server.visitor import Visitor
from creche.testing import MemoryByteStream, memory_byte_pair
from support import REQUEST, count_descriptors, count_tasks, echo, settle, until

pytestmark = pytest.mark.anyio

Hooks = dict[str, Any]

STRANGE_ORIGIN: Hooks = {"origins": ["https://other.example"]}


async def undecided(_request: creche.Request) -> None:
    await anyio.sleep_forever()


async def pass_by(_request: creche.Request) -> None:
    await anyio.lowlevel.checkpoint()


def refuse(_request: creche.Request) -> creche.Response:
    return creche.Response(403, body="no")


@asynccontextmanager
async def raw(server: creche.Server) -> AsyncIterator[SocketStream]:
    async with await anyio.connect_tcp(*server.addresses[0]) as stream:
        yield stream


async def read_all(stream: ByteStream) -> bytes:
    """What comes to the end, whatever that is."""
    data = b""
    try:
        while True:
            data += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return data


async def read_head(stream: ByteStream) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive(1)
    return head


@asynccontextmanager
async def half_open(
    server: creche.Server, count: int, data: bytes = b""
) -> AsyncIterator[list[SocketStream]]:
    """Clients that have said so much."""
    before = server.stats.accepted
    streams = [await anyio.connect_tcp(*server.addresses[0]) for _ in range(count)]
    for stream in streams:
        if data:
            await stream.send(data)
    await until(lambda: server.stats.accepted == before + count)
    await settle()
    try:
        yield streams
    finally:
        for stream in streams:
            await stream.aclose()


# Half-open clients


@pytest.mark.parametrize("data", [b"", REQUEST[:-2]])
async def test_a_half_open_client_costs_no_task(data: bytes) -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=None) as server:
        async with half_open(server, 1, data):
            tasks = count_tasks()
            async with half_open(server, 20, data):
                assert server.stats.handshakes == 21
                assert count_tasks() == tasks
        await until(lambda: not server.stats.handshakes)
        assert server.stats.refused == 21


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"])
async def test_nor_does_one_in_the_middle_of_a_tls_handshake(
    data: bytes, server_tls: ssl.SSLContext
) -> None:
    async with creche.serving(echo, "127.0.0.1", ssl=server_tls, open_timeout=None) as server:
        async with half_open(server, 1, data):
            tasks = count_tasks()
            async with half_open(server, 20, data):
                assert count_tasks() == tasks
        await until(lambda: not server.stats.handshakes)


@pytest.mark.parametrize("secure", [False, True])
async def test_a_client_that_says_nothing_is_dropped_after_open_timeout(
    secure: bool, server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "creche.server")
    tls = server_tls if secure else None
    async with creche.serving(echo, "127.0.0.1", ssl=tls, open_timeout=0.05) as server:
        async with raw(server) as stream:
            assert await read_all(stream) == b""
        assert (server.stats.refused, server.stats.handshakes) == (1, 0)
    assert "the opening handshake took over 0.05 s" in caplog.text


async def test_what_lies_in_the_kernel_is_read_before_time_is_over() -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=0.05) as server:
        with socket.create_connection(server.addresses[0], timeout=20) as sock:
            await until(lambda: server.stats.accepted)
            sock.sendall(REQUEST)
            time.sleep(0.2)  # noqa: ASYNC251 - the event loop is blocked
            await until(lambda: server.connections)
            assert server.stats.refused == 0


@pytest.mark.parametrize("hooks", [{}, {"process_request": pass_by}])
async def test_also_where_hundreds_have_spoken_meanwhile(hooks: Hooks) -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=0.3, **hooks) as server:
        socks = [socket.create_connection(server.addresses[0], timeout=20) for _ in range(200)]
        while server.stats.accepted < len(socks):
            await anyio.lowlevel.checkpoint()
        for sock in socks:
            sock.sendall(REQUEST)
        time.sleep(0.4)  # noqa: ASYNC251 - the event loop is blocked
        await until(lambda: server.stats.opened + server.stats.refused == len(socks))
        assert server.stats.refused == 0
        for sock in socks:
            sock.close()


async def test_one_that_is_refused_is_not_refused_again_when_it_is_dropped() -> None:
    options: dict[str, Any] = {**STRANGE_ORIGIN, "max_handshakes": 1}
    async with creche.serving(echo, "127.0.0.1", **options) as server:
        async with raw(server) as first:
            await first.send(REQUEST)
            await until(lambda: server.stats.refused)
            async with raw(server):
                await until(lambda: server.stats.accepted == 2)
                assert server.stats.refused == 1
                async with raw(server):
                    await until(lambda: server.stats.accepted == 3)
                    assert server.stats.refused == 2


async def test_as_it_is_for_a_client_that_connects() -> None:
    def block(_request: creche.Request) -> None:
        time.sleep(0.2)  # client and server are in the same event loop

    async with creche.serving(echo, "127.0.0.1", process_request=block) as server:
        for seconds in (0.1, None):
            async with creche.connect(server.url, open_timeout=seconds) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


@pytest.mark.parametrize(
    "hooks",
    [{}, {"process_request": undecided}, {"process_request": refuse}],
    ids=["no hook", "a hook that waits", "a hook that refuses"],
)
@pytest.mark.parametrize("size", [0, 1, 30, len(REQUEST) - 1, len(REQUEST)])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_may_go_at_any_time(hooks: Hooks, size: int, reset: bool) -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=0.5, **hooks) as server:
        before = count_descriptors()
        sock = socket.create_connection(server.addresses[0], timeout=20)
        sock.sendall(REQUEST[:size])
        await until(lambda: server.stats.accepted)
        await settle()
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        await until(lambda: not (server.stats.handshakes or server.connections))
        await until(lambda: count_descriptors() == before)
        async with creche.connect(server.url) if hooks == {} else raw(server):
            pass


@pytest.mark.parametrize(
    "hooks",
    [{}, {"process_request": undecided}, {"process_request": refuse}],
    ids=["no hook", "a hook that waits", "a hook that refuses"],
)
@pytest.mark.parametrize("size", [0, 30, len(REQUEST)])
async def test_a_shutdown_waits_for_no_opening_handshake(hooks: Hooks, size: int) -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=None, **hooks) as server:
        before = count_descriptors()
        async with half_open(server, 3, REQUEST[:size]) as streams:
            with anyio.fail_after(20):
                await server.shutdown(grace=0 if size else 60)
            for stream in streams:
                await read_all(stream)
        await until(lambda: count_descriptors() <= before)


# Requests and what follows them


@pytest.mark.parametrize("hooks", [{}, {"process_request": lambda _: anyio.sleep(0.01)}])
@pytest.mark.parametrize("parts", [1, 2, len(REQUEST)])
async def test_what_comes_with_or_right_after_a_request_is_received(
    hooks: Hooks, parts: int
) -> None:
    async with creche.serving(echo, "127.0.0.1", **hooks) as server, raw(server) as stream:
        data = REQUEST + b"\x82\x82\0\0\0\0hi"
        size = -(-len(data) // parts)
        for start in range(0, len(data), size):
            await stream.send(data[start : start + size])
            await settle()
        assert (await read_head(stream)).startswith(b"HTTP/1.1 101 ")
        answer = b""
        while len(answer) < 4:
            answer += await stream.receive()
        assert answer == b"\x82\x02hi"


async def test_what_a_hook_sets_in_its_context_its_handler_sees() -> None:
    user: ContextVar[str] = ContextVar("user")
    outside: ContextVar[str] = ContextVar("outside")
    seen: list[str] = []

    async def authenticate(request: creche.Request) -> None:
        user.set(request.path)

    async def handler(_ws: creche.WebSocket) -> None:
        seen.append(outside.get() + user.get())

    outside.set("set around serving(), ")
    async with creche.serving(handler, "127.0.0.1", process_request=authenticate) as server:
        for path in ("a", "b"):
            async with creche.connect(server.url + path) as ws:
                await ws.wait_closed()
    assert seen == ["set around serving(), /a", "set around serving(), /b"]


async def test_a_client_that_ends_its_bytes_while_it_is_decided_about_is_answered() -> None:
    decided = anyio.Event()

    async def wait(_request: creche.Request) -> None:
        await decided.wait()

    async with creche.serving(echo, "127.0.0.1", process_request=wait) as server:
        async with raw(server) as stream:
            await stream.send(REQUEST)
            await stream.send_eof()
            await until(lambda: server.stats.handshakes)
            await settle()
            decided.set()
            assert (await read_all(stream)).startswith(b"HTTP/1.1 101 ")
        await until(lambda: server.stats.closed_by_code)
        assert server.stats.closed_by_code == {1006: 1}


async def test_one_that_resets_its_connection_meanwhile_is_not_served() -> None:
    decided = anyio.Event()
    called: list[object] = []

    async def wait(_request: creche.Request) -> None:
        await decided.wait()

    async def handler(ws: creche.WebSocket) -> None:
        called.append(ws)

    async with creche.serving(handler, "127.0.0.1", process_request=wait) as server:
        sock = socket.create_connection(server.addresses[0], timeout=20)
        sock.sendall(REQUEST)
        await until(lambda: server.stats.handshakes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        decided.set()
        await until(lambda: server.stats.refused)
        assert (called, server.stats.handshakes) == ([], 0)


async def test_nor_one_whose_transport_has_failed_meanwhile() -> None:
    async def fail(_request: creche.Request) -> None:
        [visitor] = server._register.opening
        visitor._answering.read_failed(OSError("gone"))  # type: ignore[attr-defined]

    async with creche.serving(echo, "127.0.0.1", process_request=fail) as server:
        async with raw(server) as stream:
            await stream.send(REQUEST)
            await read_all(stream)
        assert (server.stats.refused, server.stats.handshakes) == (1, 0)


async def test_where_no_task_can_be_started_the_client_is_lost_and_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(coro: Any, **_: object) -> None:
        coro.close()
        raise RuntimeError("no more tasks")

    async with creche.serving(echo, "127.0.0.1") as server:
        with monkeypatch.context() as patch:
            patch.setattr(server._tasks, "create_task", fail)
            async with creche.connect(server.url) as ws:
                with pytest.raises(creche.ConnectionClosedError):
                    await ws.receive()
        assert "please report it" in caplog.text
        assert (server.connections, server.stats.handshakes) == (set(), 0)
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


@pytest.mark.parametrize("failure", [OSError("no room"), KeyError("a bug")])
@pytest.mark.parametrize("hooks", [{}, {"process_request": lambda _: None}])
async def test_a_client_that_cannot_be_taken_in_is_lost_and_no_other(
    failure: Exception,
    hooks: Hooks,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    async with creche.serving(echo, "127.0.0.1", **hooks) as server:
        for name in ("connection.answering.WebSocket", "server.visitor.accept_transport"):
            with monkeypatch.context() as patch:
                patch.setattr(f"creche.{name}", fail)
                async with raw(server) as stream:
                    await stream.send(REQUEST)
                    await read_all(stream)
        assert (server.stats.refused, server.stats.handshakes) == (2, 0)
        told = sum("please report it" in record.message for record in caplog.records)
        assert told == (0 if isinstance(failure, OSError) else 2)
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_one_that_has_not_begun_may_be_sent_away() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        visitor = Visitor(server._register)
        server._register.arrives(visitor)
        assert server.stats.handshakes == 1
        assert visitor.timeout_due(0) > 0
        visitor.check()
        assert server.stats.handshakes == 1
        visitor.cancel()
        assert server.stats.handshakes == 0


# Refusals


async def test_a_large_refusal_is_read_whole_by_a_slow_client() -> None:
    body = b"x" * 2**22

    def refuse_at_length(_request: creche.Request) -> creche.Response:
        return creche.Response(403, body=body)

    async with creche.serving(echo, "127.0.0.1", process_request=refuse_at_length) as server:
        async with raw(server) as stream:
            await stream.send(REQUEST)
            await until(lambda: server.stats.refused)
            await settle()
            assert (await read_all(stream)).endswith(b"\r\n\r\n" + body)
        await until(lambda: not server.stats.handshakes)


async def test_one_that_nobody_reads_is_over_with_open_timeout() -> None:
    def refuse_at_length(_request: creche.Request) -> creche.Response:
        return creche.Response(403, body=b"x" * 2**23)

    options: dict[str, Any] = {"process_request": refuse_at_length, "open_timeout": 0.2}
    async with creche.serving(echo, "127.0.0.1", **options) as server:
        async with raw(server) as stream:
            await stream.send(REQUEST)
            await until(lambda: server.stats.refused)
            await until(lambda: not server.stats.handshakes)
        assert server.stats.refused == 1


@pytest.mark.parametrize("hooks", [STRANGE_ORIGIN, {"process_request": refuse}])
async def test_a_refused_client_may_send_a_little_more(hooks: Hooks) -> None:
    async with creche.serving(echo, "127.0.0.1", **hooks) as server:
        async with raw(server) as stream:
            await stream.send(REQUEST)
            await stream.send(b"more" * 1000)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 403 ")
            assert server.stats.handshakes
        await until(lambda: not server.stats.handshakes)


@pytest.mark.parametrize("much", [False, True])
async def test_but_not_for_long_and_not_much(much: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "_LINGER_SECONDS", 60 if much else 0.01)
    async with creche.serving(echo, "127.0.0.1", **STRANGE_ORIGIN) as server:
        async with raw(server) as stream:
            await stream.send(REQUEST)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 403 ")
            if much:
                with pytest.raises(anyio.BrokenResourceError):
                    while True:
                        await stream.send(bytes(2**14))
            await until(lambda: not server.stats.handshakes)


async def test_a_deciding_handler_may_go_on_after_it_has_refused() -> None:
    released = anyio.Event()

    @creche.deciding
    async def handler(request: Any) -> None:
        await request.reject(403)
        await released.wait()

    async with creche.serving(handler, "127.0.0.1") as server:
        with pytest.raises(creche.InvalidStatus):
            await creche.connect(server.url)
        await settle()
        assert server.stats.handshakes == 1
        released.set()
        await until(lambda: not server.stats.handshakes)


async def test_a_deciding_handler_that_has_refused_has_its_own_time() -> None:
    going_on, done = anyio.Event(), anyio.Event()

    @creche.deciding
    async def handler(request: Any) -> None:
        await request.reject(403)
        going_on.set()
        await anyio.sleep(0.2)
        done.set()

    async with creche.serving(handler, "127.0.0.1", open_timeout=0.05) as server:
        with pytest.raises(creche.InvalidStatus):
            await creche.connect(server.url)
        await going_on.wait()
        await done.wait()
        await until(lambda: not server.stats.handshakes)
        assert server.stats.refused == 1


@pytest.mark.parametrize("hook", ["process_request", "select_subprotocol", "process_response"])
async def test_a_request_that_is_not_decided_in_time_is_answered_500(hook: str) -> None:
    async def think(*_args: object) -> None:
        await anyio.sleep_forever()

    options: dict[str, Any] = {hook: think, "open_timeout": 0.05, "subprotocols": ["chat"]}
    async with creche.serving(echo, "127.0.0.1", **options) as server:
        with pytest.raises(creche.InvalidStatus, match=r"500 .*took too long to decide"):
            await creche.connect(server.url)
        await until(lambda: not server.stats.handshakes)
        assert server.stats.refused == 1


@pytest.mark.parametrize("by_hook", [False, True])
async def test_a_refusal_that_is_read_steadily_may_take_longer_than_open_timeout(
    by_hook: bool,
) -> None:
    body = b"x" * 8_000_000

    async def refuse_at_length(_request: creche.Request) -> creche.Response:
        return creche.Response(403, body=body)

    @creche.deciding
    async def handler(request: Any) -> None:
        await request.reject(403, body=body)

    options: dict[str, Any] = {"process_request": refuse_at_length} if by_hook else {}
    async with creche.serving(
        echo if by_hook else handler, "127.0.0.1", open_timeout=0.2, **options
    ) as server:
        async with raw(server) as stream:
            await stream.send(REQUEST)
            size = 0
            with pytest.raises(anyio.EndOfStream):
                while True:
                    size += len(await stream.receive(200_000))
                    await anyio.sleep(0.02)
        assert size > len(body)
        await until(lambda: not server.stats.handshakes)


async def test_a_refusal_that_is_not_read_ends_with_open_timeout() -> None:
    body = b"x" * 16_000_000

    @creche.deciding
    async def handler(request: Any) -> None:
        await request.reject(403, body=body)

    async with creche.serving(handler, "127.0.0.1", open_timeout=0.1) as server:
        async with raw(server) as stream:
            await stream.send(REQUEST)
            await until(lambda: server.stats.refused)
            await until(lambda: not server.stats.handshakes)
            assert len(await read_all(stream)) < len(body)


async def test_a_response_that_cannot_be_copied_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(creche.Response):
        def __copy__(self) -> creche.Response:
            raise LookupError("odd")

    def refuse_oddly(_request: creche.Request) -> creche.Response:
        return Odd(403)

    async with creche.serving(echo, "127.0.0.1", process_request=refuse_oddly) as server:
        with pytest.raises(creche.InvalidStatus, match="500"):
            await creche.connect(server.url)
        assert "odd" in caplog.text
        assert "report" not in caplog.text


@pytest.mark.parametrize("open_timeout", [None, 30])
async def test_draining_does_not_wait_for_who_has_not_asked(
    open_timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_ASKING_SECONDS", 0.05)
    trace: list[str] = []

    def note(event: str, info: dict[str, Any]) -> None:
        trace.append(f"{event} {info.get('exception', '')}")

    async with creche.serving(echo, "127.0.0.1", open_timeout=open_timeout, trace=note) as server:
        async with half_open(server, 3, b"GET / HT"):
            await server.drain()
            assert server.stats.refused == 3
    assert sum("has not asked yet" in line for line in trace) == 3


@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("offered", [[], ["other"], ["other", "chat"]])
async def test_a_server_may_require_a_subprotocol(offered: list[str], hook: bool) -> None:
    def select(_request: creche.Request, names: list[str]) -> str | None:
        return "chat" if "chat" in names else None

    options: dict[str, Any] = {"select_subprotocol": select} if hook else {"subprotocols": ["chat"]}
    async with creche.serving(echo, "127.0.0.1", require_subprotocol=True, **options) as server:
        if "chat" in offered:
            async with creche.connect(server.url, subprotocols=offered) as ws:
                assert ws.subprotocol == "chat"
        else:
            why = "400 .*offer a subprotocol that is supported here"
            with pytest.raises(creche.InvalidStatus, match=why if hook else f"{why}: chat"):
                await creche.connect(server.url, subprotocols=offered)


def test_a_server_without_subprotocols_cannot_require_one() -> None:
    with pytest.raises(ValueError, match=r"^require_subprotocol: .* say which in subprotocols"):
        creche.serving(echo, "127.0.0.1", require_subprotocol=True)


@pytest.mark.parametrize("what", ["origin", "host", "application", "broken"])
async def test_an_operator_is_told_what_the_options_refuse_once_a_second(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    hook = {"process_request": refuse} if what == "application" else {}
    async with creche.serving(echo, "127.0.0.1", **hook) as server:  # type: ignore[arg-type]
        request = {
            "origin": REQUEST.replace(b"\r\n\r\n", b"\r\nOrigin: https://a.example\r\n\r\n"),
            "host": REQUEST.replace(b"localhost", b"rebound.example"),
            "broken": REQUEST.replace(b"Upgrade: websocket\r\n", b""),
        }.get(what, REQUEST)
        for _ in range(3):
            async with raw(server) as stream:
                await stream.send(request)
                assert (await read_all(stream)).startswith(b"HTTP/1.1 4")
        await until(lambda: server.stats.refused == 3)
    told = [
        record.getMessage()
        for record in caplog.records
        if record.name == "creche.server" and record.levelno == logging.WARNING
    ]
    expected = {
        "origin": "refused 127.0.0.1: Origin https://a.example is not allowed: it is of another "
        'host; the option origins="same-host" is in force',
        "host": "refused 127.0.0.1: Host rebound.example is not allowed: the server listens on "
        "loopback; see the option hosts",
    }
    assert told == ([expected[what]] if what in expected else [])


async def test_a_server_says_where_it_listens(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve, echo, "127.0.0.1")
        await tg.start(creche.serve_unix, echo, tmp_path / "socket")
        tg.cancel_scope.cancel()
    assert f"listening at {server.url}" in caplog.messages
    assert f"listening at {tmp_path / 'socket'}" in caplog.messages


async def test_draining_leaves_those_alone_about_whom_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "_ASKING_SECONDS", 0.01)
    deciding, decided = anyio.Event(), anyio.Event()

    async def decide(_request: creche.Request) -> None:
        deciding.set()
        await decided.wait()

    async with creche.serving(echo, "127.0.0.1", process_request=decide) as server:
        async with raw(server) as stream, half_open(server, 1), anyio.create_task_group() as tg:
            await stream.send(REQUEST)
            await deciding.wait()
            tg.start_soon(server.drain)
            await until(lambda: server.stats.refused == 1)
            decided.set()
            assert (await read_head(stream)).startswith(b"HTTP/1.1 101 ")
            await stream.aclose()


async def test_a_shutdown_may_begin_in_a_trace_callback() -> None:
    def begin(event: str, _info: dict[str, Any]) -> None:
        if event == "connection.open.started":
            servers[0].begin_shutdown()

    servers: list[creche.Server] = []
    async with creche.serving(echo, "127.0.0.1", trace=begin) as server:
        servers.append(server)
        async with raw(server) as stream:
            assert not await read_all(stream)
        await until(lambda: server.draining)


async def test_a_deciding_handler_is_told_that_the_client_has_gone() -> None:
    asked, gone = anyio.Event(), anyio.Event()
    raised: list[Exception] = []

    @creche.deciding
    async def handler(request: Any) -> None:
        asked.set()
        await gone.wait()
        try:
            await request.reject(403, body=b"x" * 2**20)
        except OSError as exc:
            raised.append(exc)
            raise

    async with creche.serving(handler, "127.0.0.1") as server:
        sock = socket.create_connection(server.addresses[0], timeout=20)
        sock.sendall(REQUEST)
        await asked.wait()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        gone.set()
        await until(lambda: raised)
        await until(lambda: not server.stats.handshakes)
        assert server.stats.refused == 1


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("decide", ["accept", "reject", "accept what cannot be"])
async def test_who_decides_too_late_is_told_and_the_client_does_not_count(
    decide: str, gone: bool
) -> None:
    requests: list[Any] = []
    cannot_be = decide.endswith("cannot be")

    @creche.deciding
    async def handler(request: Any) -> None:
        requests.append(request)
        await anyio.sleep_forever()

    async def decide_now() -> None:
        expected = creche.HandshakeError if cannot_be else ConnectionAbortedError
        why = "426" if cannot_be else "has gone" if gone else "was refused meanwhile"
        with pytest.raises(expected, match=why):
            await (requests[0].reject(403) if decide == "reject" else requests[0].accept())

    options: dict[str, Any] = {"open_timeout": 0.05, "max_connections": 1}
    async with creche.serving(handler, "127.0.0.1", **options) as server:
        async with raw(server) as stream:
            await stream.send(
                REQUEST.replace(b"Version: 13", b"Version: 12") if cannot_be else REQUEST
            )
            answer = await read_head(stream)
            assert answer.startswith(b"HTTP/1.1 500 ")
            if not gone:
                await settle()
                await decide_now()
                assert b"HTTP/1.1" not in await read_all(stream)
        await until(lambda: not server.stats.handshakes)
        if gone:
            await decide_now()
        assert (server._register.admitted, server.stats.refused) == (0, 1)


async def test_a_refusal_is_lingered_for_as_long_as_the_client_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering, "_LINGER_SECONDS", 0.3)
    body = b"x" * 2_000_000

    def refuse_at_length(_request: creche.Request) -> creche.Response:
        return creche.Response(403, body=body)

    async with creche.serving(echo, "127.0.0.1", process_request=refuse_at_length) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            sock.connect(server.addresses[0])
            sock.sendall(REQUEST)
            sock.setblocking(False)
            size = 0
            while size < len(body):
                await anyio.wait_readable(sock)
                size += len(sock.recv(2**16))
                await anyio.sleep(0.02)
                sock.send(b"?")  # which a closed socket would answer by a reset
        await until(lambda: not server.stats.handshakes)


@pytest.mark.parametrize("decides", [False, True])
async def test_a_hook_may_stop_its_server(decides: bool) -> None:
    async def stop(_request: Any) -> None:
        await server.shutdown(grace=60)

    options: dict[str, Any] = {} if decides else {"process_request": stop}
    handler: Any = creche.deciding(stop) if decides else echo
    with anyio.fail_after(20):
        async with creche.serving(handler, "127.0.0.1", **options) as server:
            async with raw(server) as stream:
                await stream.send(REQUEST)
                await server.wait_stopped()


async def test_a_client_whose_task_was_cancelled_before_it_began_is_not_waited_for(
    anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the end of asyncio.run(), where sys.exit() was called in that turn."""
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    monkeypatch.setattr("creche.server.register._CHECK_SECONDS", 0.01)
    with anyio.fail_after(20):
        async with creche.serving(echo, "127.0.0.1") as server:
            start = server._register.start_task

            def start_and_cancel(*args: Any) -> Any:
                before = asyncio.all_tasks()
                handle = start(*args)
                [task] = asyncio.all_tasks() - before
                task.cancel()
                return handle

            server._register.start_task = start_and_cancel
            async with raw(server) as stream:
                await stream.send(REQUEST)
                await read_all(stream)
                with pytest.raises(TimeoutError):
                    with anyio.fail_after(0.05):
                        await anyio.sleep_forever()
    assert not server._register.guests


# Streams


class OneStream(anyio.abc.Listener[ByteStream]):
    """A listener that accepts one stream, in a task of its own."""

    extra_attributes: ClassVar[dict[Any, Callable[[], Any]]] = {}

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()

    async def serve(
        self, handler: Callable[[ByteStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        try:
            with self.scope:
                await handler(self._stream)
        finally:
            self.ended.set()
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def serving_stream(
    **options: Any,
) -> AsyncIterator[tuple[creche.Server, OneStream, MemoryByteStream]]:
    ours, theirs = memory_byte_pair()
    async with anyio.create_task_group() as tg:
        listener = OneStream(theirs)
        server = await tg.start(
            lambda task_status: creche.serve_listener(
                echo, listener, task_status=task_status, **options
            )
        )
        await settle()
        yield server, listener, ours
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("hooks", [{}, {"process_request": undecided}])
@pytest.mark.parametrize("size", [0, len(REQUEST)])
async def test_the_task_of_a_stream_may_be_cancelled_at_any_time(hooks: Hooks, size: int) -> None:
    async with serving_stream(**hooks) as (server, listener, stream):
        if size:
            await stream.send(REQUEST[:size])
            await settle()
        listener.scope.cancel()
        with anyio.fail_after(20):
            await listener.ended.wait()
            await read_all(stream)
        assert (server.stats.handshakes, server.connections) == (0, set())


async def test_a_stream_that_cannot_be_taken_in_ends_its_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("creche.server.visitor.Answering", None)
    async with serving_stream() as (server, listener, _):
        await listener.ended.wait()
        assert server.stats.handshakes == 0
    assert "please report it" in caplog.text


async def test_a_listener_that_breaks_while_the_server_stops_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Breaking(OneStream):
        async def serve(self, *_: object) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise anyio.ClosedResourceError

    ours, theirs = memory_byte_pair()
    async with anyio.create_task_group() as tg:
        server = await tg.start(
            lambda task_status: creche.serve_listener(
                echo, Breaking(theirs), task_status=task_status
            )
        )
        await settle()
        await server.shutdown()
    assert caplog.records == []
    await ours.aclose()


async def test_also_in_the_turn_in_which_its_connection_opens() -> None:
    async with serving_stream() as (server, listener, stream):
        await stream.send(REQUEST)
        while not server.connections:
            await anyio.lowlevel.checkpoint()
        listener.scope.cancel()
        with anyio.fail_after(20):
            await listener.ended.wait()
            assert (await read_all(stream)).startswith(b"HTTP/1.1 101 ")
        assert server.connections == set()


async def test_the_task_of_a_stream_ends_with_its_refusal() -> None:
    async with serving_stream(process_request=refuse) as (server, listener, stream):
        await stream.send(REQUEST)
        assert (await read_all(stream)).endswith(b"no")
        await listener.ended.wait()
        await until(lambda: not server.stats.handshakes)


async def test_a_stream_that_ends_while_it_is_decided_about_is_a_lost_connection() -> None:
    decided = anyio.Event()

    async def wait(_request: creche.Request) -> None:
        await decided.wait()

    async with serving_stream(process_request=wait) as (server, _, stream):
        await stream.send(REQUEST)
        await stream.send(b"\x82")
        await stream.send_eof()
        await settle()
        decided.set()
        await until(lambda: server.stats.closed_by_code)
        assert server.stats.closed_by_code == {1006: 1}


@pytest.mark.parametrize("size", [0, len(REQUEST)])
async def test_opening_a_single_connection_may_be_cancelled(size: int) -> None:
    ours, theirs = memory_byte_pair()
    if size:
        await ours.send(REQUEST)
    with anyio.move_on_after(0.02) as scope:
        await creche.server_websocket(theirs, process_request=undecided)
    assert scope.cancelled_caught
    assert await read_all(ours) == b""


@pytest.mark.parametrize("hooks", [STRANGE_ORIGIN, {"process_request": refuse}])
async def test_a_single_connection_that_is_refused_is_told_and_closed(hooks: Hooks) -> None:
    ours, theirs = memory_byte_pair()
    received: list[bytes] = []

    async def client() -> None:
        received.append(await read_all(ours))
        await ours.aclose()

    async with anyio.create_task_group() as tg:
        await ours.send(REQUEST)
        tg.start_soon(client)
        with pytest.raises(creche.HandshakeError, match="403 Forbidden"):
            await creche.server_websocket(theirs, **hooks)
    assert received[0].startswith(b"HTTP/1.1 403 ")


async def test_a_single_connection_takes_no_longer_than_open_timeout() -> None:
    ours, theirs = memory_byte_pair()
    with pytest.raises(TimeoutError, match=r"took over 0\.01 s"):
        await creche.server_websocket(theirs, open_timeout=0.01)
    assert await read_all(ours) == b""


async def test_a_stream_that_breaks_before_it_asks_is_told() -> None:
    ours, theirs = memory_byte_pair()
    await ours.aclose()
    with pytest.raises(creche.HandshakeError, match="before it asked"):
        await creche.server_websocket(theirs)
    assert not current_engine().residents
