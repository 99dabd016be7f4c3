"""Connections and servers as objects: opened here, held there, closed elsewhere."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import creche
from creche.engine.current import current_engine
from creche.options.resolving import client_options
from creche.protocol.states import Side
from creche.testing import memory_pair
from creche.transports.callback_sockets import CallbackSocketTransport
from support import BACKENDS, echo, settle, until

pytestmark = pytest.mark.anyio


async def talk(ws: creche.WebSocket, message: str = "hello") -> None:
    await ws.send(message)
    assert await ws.receive() == message


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Of a server that another task starts and stops than the tests."""
    async with creche.serving(echo, "127.0.0.1") as server:
        yield server.url
        await until(lambda: not server.connections)


# Opening and closing


async def test_a_connection_is_awaited_in_one_task_and_closed_in_another(url: str) -> None:
    opened: list[creche.WebSocket] = []

    async def start() -> None:
        opened.append(await creche.connect(url))

    async def use() -> None:
        await talk(opened[0])

    async def stop() -> None:
        await opened[0].aclose()

    for task in (start, use, stop):
        async with anyio.create_task_group() as tg:
            tg.start_soon(task)
    assert opened[0].close_code == 1000


async def test_connections_are_left_in_the_order_in_which_they_were_entered(url: str) -> None:
    contexts = [creche.connect(url) for _ in range(3)]
    websockets = [await context.__aenter__() for context in contexts]
    for context, ws in zip(contexts, websockets, strict=True):
        await talk(ws)
        await context.__aexit__(None, None, None)
        assert ws.close_code == 1000
    await anyio.lowlevel.checkpoint()  # no scope is broken


async def test_an_exit_stack_holds_connections_and_a_server() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(creche.serving(echo, "127.0.0.1"))
        for _ in range(3):
            await talk(await stack.enter_async_context(creche.connect(server.url)))
    assert not server.connections


async def test_a_server_is_left_by_another_task() -> None:
    context = creche.serving(echo, "127.0.0.1")
    servers: list[creche.Server] = []

    async def start() -> None:
        servers.append(await context.__aenter__())

    async def stop() -> None:
        await context.__aexit__(None, None, None)

    async with anyio.create_task_group() as tg:
        tg.start_soon(start)
    ws = await creche.connect(servers[0].url)
    await talk(ws)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stop)
        with pytest.raises(creche.ConnectionClosedOK):
            await ws.receive()
        await ws.aclose()
    assert ws.close_code == 1001


async def test_a_pending_connection_is_entered_once_at_a_time(url: str) -> None:
    context = creche.connect(url)
    async with context as ws:
        with pytest.raises(RuntimeError, match="open already"):
            await context.__aenter__()
        await talk(ws)
    async with context as ws:
        await talk(ws)


async def test_a_server_is_entered_once_at_a_time() -> None:
    context = creche.serving(echo, "127.0.0.1")
    async with context:
        with pytest.raises(RuntimeError, match="runs already"):
            await context.__aenter__()


async def test_handlers_of_a_server_see_the_context_in_which_it_was_entered() -> None:
    from contextvars import ContextVar

    name: ContextVar[str] = ContextVar("name")
    seen = []

    async def handler(_ws: creche.WebSocket) -> None:
        seen.append(name.get())

    name.set("mine")
    async with creche.serving(handler, "127.0.0.1") as server:
        name.set("later")
        async with creche.connect(server.url) as ws:
            await creche.discard(ws)
    assert seen == ["mine"]


async def test_a_memory_pair_is_awaited() -> None:
    client, server = await memory_pair()
    async with client, server:
        await client.send("x")
        assert await server.receive() == "x"


async def test_client_and_server_over_a_stream_are_awaited() -> None:
    ours, theirs = creche.testing.memory_byte_pair()
    opened: list[creche.WebSocket] = []

    async def serve() -> None:
        opened.append(await creche.server_websocket(theirs))

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve)
        client = await creche.client_websocket(ours, "ws://localhost/")
    await client.send("x")
    assert await opened[0].receive() == "x"
    async with anyio.create_task_group() as tg:
        tg.start_soon(opened[0].aclose)
        await client.aclose()


async def test_an_opening_that_another_task_waits_for_with_a_timeout(
    anyio_backend_name: str, url: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("it is asyncio's")
    context = creche.connect(url)
    ws = await asyncio.wait_for(context.__aenter__(), 5)
    await talk(ws)
    await asyncio.wait_for(context.__aexit__(None, None, None), 5)


async def test_leaving_what_was_not_entered_does_nothing(url: str) -> None:
    contexts: list[Any] = [creche.connect(url), creche.serving(echo, "127.0.0.1"), memory_pair()]
    for context in contexts:
        await context.__aexit__(None, None, None)


async def test_a_server_that_is_cancelled_or_fails_as_it_starts_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await creche.serving(echo, sockets=[sock]).__aenter__()
    assert sock.fileno() == -1
    monkeypatch.setattr("creche.server.serve.Server", broken)
    sock = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(ExceptionGroup, match=r"TaskGroup|nursery"):
        await creche.serving(echo, sockets=[sock]).__aenter__()
    assert sock.fileno() == -1


def broken(*_args: object) -> Any:
    raise KeyError("a bug")


async def test_one_that_could_not_be_made_is_dropped_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ws = creche.WebSocket.__new__(creche.WebSocket)
        del ws
        gc.collect()


async def test_one_that_ends_before_the_loop_can_close_it_is_left_alone() -> None:
    async with memory_pair() as (client, _):
        await client.aclose()
        client._link.drop()
        assert client.close_code == 1000


# Generators


async def messages(url: str) -> AsyncIterator[Any]:
    async with creche.connect(url) as ws:
        while True:
            await ws.send("x")
            yield await ws.receive()


async def test_a_generator_around_a_connection_that_is_closed(url: str) -> None:
    async with aclosing(messages(url)) as generator:  # type: ignore[type-var]
        async for message in generator:
            assert message == "x"
            break


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_generator_around_a_connection_that_is_abandoned(backend_name: str) -> None:
    async def main() -> None:
        async with creche.serving(echo, "127.0.0.1") as server:
            async for message in messages(server.url):
                assert message == "x"
                break
            gc.collect()
            await until(lambda: not server.connections)

    anyio.run(main, **BACKENDS[backend_name])


def test_the_generators_of_the_loop_are_shut_down_while_connections_are_in_use(
    backend_name: str,
) -> None:
    if backend_name == "trio":
        pytest.skip("it is asyncio's")

    async def main() -> None:
        async with creche.serving(echo, "127.0.0.1") as server, creche.connect(server.url) as ws:
            await asyncio.get_running_loop().shutdown_asyncgens()
            await talk(ws)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is done once more, by whoever runs the loop
        anyio.run(main, **BACKENDS[backend_name])


# Elsewhere


async def in_other_loop(function: Any, backend: str) -> list[BaseException | None]:
    result: list[BaseException | None] = []

    def run() -> None:
        try:
            anyio.run(function, **BACKENDS[backend])
        except BaseException as exc:
            result.append(exc)
        else:
            result.append(None)

    thread = threading.Thread(target=run)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    return result


async def test_from_another_loop_it_is_not_closed(backend_name: str, url: str) -> None:
    server = creche.serving(echo, "127.0.0.1")
    await server.__aenter__()
    async with creche.connect(url) as ws:
        for close in (
            ws.aclose,
            lambda: ws.__aexit__(None, None, None),
            lambda: server.__aexit__(None, None, None),
        ):
            [error] = await in_other_loop(close, backend_name)
            assert isinstance(error, RuntimeError)
            assert "another event loop" in str(error)
        await talk(ws)


def test_after_the_end_of_its_loop_it_is_closed_all_the_same(backend_name: str) -> None:
    held: list[Any] = []

    async def main() -> None:
        server = creche.serving(echo, "127.0.0.1")
        held.append(server)
        url = (await server.__aenter__()).url
        held.append(await creche.connect(url))
        await talk(held[1])

    async def after() -> None:
        await held[1].aclose()
        await held[0].__aexit__(None, None, None)

    anyio.run(main, **BACKENDS[backend_name])
    anyio.run(after, **BACKENDS[backend_name])
    assert held[1].state == "closed"


@pytest.mark.filterwarnings("ignore:unclosed connection")
@pytest.mark.parametrize("left", [True, False])
def test_after_the_end_of_its_loop_it_is_left_or_dropped_all_the_same(
    backend_name: str, left: bool
) -> None:
    """Its peer has nothing to do with the loop."""
    held: list[creche.WebSocket] = []
    ours, theirs = socket.socketpair()

    async def main() -> None:
        held.append(
            creche.WebSocket(
                CallbackSocketTransport(ours),
                current_engine().clients,
                Side.CLIENT,
                client_options({}),
                request=creche.Request("/"),
                response=creche.Response(101),
            )
        )
        await held[0].send("x")

    async def leave() -> None:
        await held[0].__aexit__(None, None, None)

    with theirs:
        anyio.run(main, **BACKENDS[backend_name])
        if left:
            anyio.run(leave, **BACKENDS[backend_name])
        held.clear()
        gc.collect()
        theirs.settimeout(10)
        data = b""
        while piece := theirs.recv(100):
            data += piece
    assert ours.fileno() == -1
    assert data[0] == 0x81  # what was sent, and a close frame after it
    assert data[7] == 0x88


def test_connections_over_streams_end_with_their_loop(backend_name: str) -> None:
    held: list[creche.WebSocket] = []

    async def main() -> None:
        client, server = await memory_pair()
        held.extend((client, server))
        await client.send("x")
        assert await server.receive() == "x"

    async def after() -> None:
        for ws in held:
            await ws.aclose()

    anyio.run(main, **BACKENDS[backend_name])
    anyio.run(after, **BACKENDS[backend_name])
    assert [ws.state for ws in held] == ["closed", "closed"]


def test_several_runs_of_one_loop_share_a_connection(backend_name: str) -> None:
    if backend_name == "trio":
        pytest.skip("a loop of Trio runs once")
    factory = None
    if backend_name == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:

        async def start() -> tuple[Any, Any, creche.WebSocket]:
            context = creche.serving(echo, "127.0.0.1")
            server = await context.__aenter__()
            return context, server, await creche.connect(server.url)

        async def stop() -> None:
            await ws.aclose()
            await context.__aexit__(None, None, None)

        context, _, ws = runner.run(start())
        for _ in range(3):
            runner.run(talk(ws))
        runner.run(stop())


# Dropped


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_connection_that_is_dropped_is_closed_and_warned_of(in_thread: bool) -> None:
    codes = []

    async def handler(ws: creche.WebSocket) -> None:
        await creche.discard(ws)
        codes.append(ws.close_code)

    async with creche.serving(handler, "127.0.0.1") as server:
        held = [await creche.connect(server.url)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if in_thread:
                await anyio.to_thread.run_sync(held.clear)
            else:
                held.clear()
            gc.collect()
        [warning] = [each for each in caught if each.category is ResourceWarning]
        assert "unclosed connection <creche.WebSocket client" in str(warning.message)
        await until(lambda: codes)
        await until(lambda: not current_engine().residents)
    assert codes == [1001]


async def test_one_that_has_ended_is_dropped_without_a_warning(url: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ws = await creche.connect(url)
        await ws.aclose()
        del ws
        gc.collect()


def drop(holders: list[Any]) -> None:
    holders.clear()
    gc.collect()


@pytest.mark.parametrize(
    "make",
    [
        creche.WebSocket.send_stream,
        creche.WebSocket.receive_stream,
        creche.WebSocket.create_task_group,
        creche.as_byte_stream,
        lambda ws: creche.codec(ws, str, str),
    ],
)
async def test_whoever_holds_something_of_a_connection_holds_it(
    url: str, make: Callable[[creche.WebSocket], object]
) -> None:
    ws = await creche.connect(url)
    held, link = make(ws), ws._link
    del ws
    gc.collect()
    await settle()
    assert link.is_open()
    holders = [held]
    del held
    with pytest.warns(ResourceWarning, match="unclosed connection"):
        drop(holders)
    await until(lambda: link.gone)


def run_program(backend: str, body: str, *options: str) -> subprocess.CompletedProcess[str]:
    program = f"""
import anyio, asyncio, creche

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
{textwrap.indent(textwrap.dedent(body), "    ")}

anyio.run(main, **{BACKENDS[backend]!r})
"""
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parent,
        check=False,
    )


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "held.append(ws)",
        "del ws",
        "await ws.send('x' * 1000000)",
        "raise SystemExit(0)",
    ],
)
def test_a_program_may_end_without_closing_anything(backend_name: str, ending: str) -> None:
    body = f"""
    global held
    held = []
    server = await creche.serving(echo, "127.0.0.1").__aenter__()
    ws = await creche.connect(server.url)
    await ws.send("x")
    print(await ws.receive())
    {ending}
    """
    done = run_program(backend_name, body, "-W", "always::ResourceWarning")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "x\n"
    if ending != "del ws":
        assert "Traceback (most" not in done.stderr


# Fixtures. Each of these files is run by pytest in a process of its own.

_ECHO = """
import asyncio, unittest, pytest, creche

async def echo(ws):
    async for message in ws:
        await ws.send(message)
"""

_HELD = """
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            yield ws
"""

_USED = """
async def test_one(ws):
    await ws.send("x")
    assert await ws.receive() == "x"

async def test_two(ws):
    await ws.send("x")
    assert await ws.receive() == "x"
"""

FIXTURES = {
    "pytest-asyncio, function": f"""
import pytest_asyncio
pytestmark = pytest.mark.asyncio

@pytest_asyncio.fixture
async def ws():{_HELD}
{_USED}""",
    "pytest-asyncio, session": f"""
import pytest_asyncio
pytestmark = pytest.mark.asyncio(loop_scope="session")

@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ws():{_HELD}
{_USED}""",
    "pytest-trio": f"""
import pytest_trio

@pytest_trio.trio_fixture
async def ws():{_HELD}
{_USED.replace("async def", "@pytest.mark.trio" + chr(10) + "async def")}""",
    "anyio, function": f"""
pytestmark = pytest.mark.anyio

@pytest.fixture
async def ws():{_HELD}
{_USED}""",
    "anyio, module": f"""
pytestmark = pytest.mark.anyio

@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

@pytest.fixture(scope="module")
async def ws(anyio_backend):{_HELD}
{_USED}""",
    "unittest": """
class Tests(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.serving = creche.serving(echo, "127.0.0.1")
        self.server = await self.serving.__aenter__()
        self.ws = await creche.connect(self.server.url)

    async def asyncTearDown(self):
        await self.ws.aclose()
        await self.serving.__aexit__(None, None, None)

    async def test_one(self):
        await self.ws.send("x")
        assert await self.ws.receive() == "x"

    async def test_two(self):
        other = await self.enterAsyncContext(creche.connect(self.server.url))
        await other.send("x")
        assert await other.receive() == "x"
""",
}


@pytest.mark.parametrize("kind", FIXTURES)
def test_a_fixture_holds_a_client_and_a_server(kind: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_ECHO + FIXTURES[kind])
    plugins = ["-p", "no:asyncio"] if "asyncio" not in kind else []
    settings = ["-o", "asyncio_default_fixture_loop_scope=function"] if not plugins else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *plugins, *settings, "test_it.py"],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        check=False,
    )
    passed = "4 passed" if kind.startswith("anyio") else "2 passed"
    assert passed in done.stdout, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert "error" not in done.stdout
