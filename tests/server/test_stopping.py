"""What stops a server, and who waits for whom; and what comes out of it."""

from __future__ import annotations

import gc
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import pytest
from _pytest.outcomes import Failed

import creche
from support import BACKENDS, echo, settle, until

pytestmark = pytest.mark.anyio


async def directly(_ws: creche.WebSocket, function: Callable[[], Any]) -> None:
    await function()


async def in_a_child(_ws: creche.WebSocket, function: Callable[[], Any]) -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(function)


async def in_a_branch(ws: creche.WebSocket, function: Callable[[], Any]) -> None:
    async def branch(_ws: creche.WebSocket) -> None:
        await function()

    await ws.run(branch)


HOW = [directly, in_a_child, in_a_branch]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["shutdown", "drain"])
async def test_a_handler_that_stops_the_server_is_not_waited_for(name: str, how: Any) -> None:
    servers: list[creche.Server] = []
    done: list[str] = []

    async def handler(ws: creche.WebSocket) -> None:
        if await ws.receive() == "stop":
            await how(ws, getattr(servers[0], name))
            done.append("stopped")
            await anyio.sleep(0.01)
            done.append("after")
        else:
            await creche.discard(ws)
            done.append("other")

    async with anyio.create_task_group() as tg:
        servers.append(await tg.start(creche.serve, handler, "127.0.0.1"))
        async with (
            creche.connect(servers[0].url) as other,
            creche.connect(servers[0].url) as ws,
        ):
            await other.send("x")
            await until(lambda: len(servers[0].connections) == 2)
            with anyio.fail_after(5):
                await ws.send("stop")
                if name == "drain":
                    await until(lambda: servers[0].draining)
                    await other.aclose()
                else:
                    await creche.discard(other)
                await creche.discard(ws)
    assert done == ["other", "stopped", "after"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["shutdown", "drain"])
async def test_handlers_that_stop_the_server_do_not_wait_for_each_other(
    name: str, how: Any
) -> None:
    servers: list[creche.Server] = []
    begun: list[creche.WebSocket] = []

    async def handler(ws: creche.WebSocket) -> None:
        await ws.receive()
        begun.append(ws)
        await until(lambda: len(begun) == 3)
        await how(ws, getattr(servers[0], name))

    with anyio.fail_after(20):
        async with creche.serving(handler, "127.0.0.1") as server:
            servers.append(server)
            async with anyio.create_task_group() as tg:

                async def client() -> None:
                    async with creche.connect(server.url) as ws:
                        await ws.send("stop")
                        await creche.discard(ws)

                for _ in range(3):
                    tg.start_soon(client)
            await server.wait_stopped()
    assert len(begun) == 3


@pytest.mark.parametrize("name", ["shutdown", "drain"])
async def test_hooks_that_stop_the_server_do_not_wait_for_each_other(name: str) -> None:
    servers: list[creche.Server] = []
    asked = 0

    async def hook(_request: creche.Request) -> None:
        nonlocal asked
        asked += 1
        await until(lambda: asked == 2)
        await getattr(servers[0], name)()

    async def client() -> None:
        try:
            async with creche.connect(servers[0].url) as ws:
                await creche.discard(ws)
        except (OSError, creche.WebSocketError):
            pass

    with anyio.fail_after(20):
        async with creche.serving(echo, "127.0.0.1", process_request=hook) as server:
            servers.append(server)
            async with anyio.create_task_group() as tg:
                for _ in range(2):
                    tg.start_soon(client)
                await server.wait_stopped()


async def test_what_has_stopped_may_be_told_to_stop() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        await server.shutdown()
        await settle()
        server.begin_shutdown()
        await server.drain()
        await server.shutdown()


async def test_a_shutdown_that_is_begun_is_waited_for_by_serve() -> None:
    done = []

    async def handler(ws: creche.WebSocket) -> None:
        servers[0].begin_shutdown(4000, "enough", grace=5)
        try:
            await creche.discard(ws)
        finally:
            done.append(ws.close_code)

    servers: list[creche.Server] = []
    async with anyio.create_task_group() as tg:
        servers.append(await tg.start(creche.serve, handler, "127.0.0.1"))
        async with creche.connect(servers[0].url) as ws:
            with pytest.raises(creche.ConnectionClosedError, match=r"4000 .* enough"):
                await ws.receive()
    assert done == [4000]


async def test_a_shutdown_is_not_begun_with_a_bad_argument() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        with pytest.raises(ValueError, match="grace"):
            server.begin_shutdown(grace=-1)
        assert not server.draining


# What comes out

ENDINGS: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "pytest.fail": lambda: Failed("a check"),
}


def holds(exc: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(holds(part, kind) for part in exc.exceptions)
    return isinstance(exc, kind)


@pytest.fixture(autouse=True)
def handled_interrupts() -> Iterator[None]:
    """Ctrl-C is handled as in a program in the foreground, wherever the tests run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def outcome(main: Callable[[], Any], backend: str, exc: BaseException) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            anyio.run(main, **BACKENDS[backend])
        except BaseException as raised:
            came_out = holds(raised, type(exc))
        else:
            came_out = False
        # AnyIO leaves the coroutines of tasks that never began to the collector, which warns.
        exc.__traceback__ = exc.__context__ = None
        gc.collect()
    assert came_out


async def raise_in_body(ws: creche.WebSocket, exc: BaseException) -> None:
    await ws.send("x")
    raise exc


async def raise_in_run(ws: creche.WebSocket, exc: BaseException) -> None:
    async def handler(_ws: creche.WebSocket) -> None:
        raise exc

    await ws.run(handler, creche.discard)


async def raise_in_group(ws: creche.WebSocket, exc: BaseException) -> None:
    async with ws.create_task_group() as tg:
        tg.start_soon(creche.discard, ws)
        raise exc


async def raise_as_the_peer_closes(ws: creche.WebSocket, exc: BaseException) -> None:
    async with ws.create_task_group():
        await ws.send("close")
        await creche.discard(ws)
        raise exc


async def close_on_demand(ws: creche.WebSocket) -> None:
    async for message in ws:
        if message == "close":
            return


WHERE = [raise_in_body, raise_in_run, raise_in_group, raise_as_the_peer_closes]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("where", WHERE)
def test_what_ends_a_program_comes_out_of_a_client(
    backend_name: str, where: Any, ending: str
) -> None:
    exc = ENDINGS[ending]()

    async def main() -> None:
        async with (
            creche.serving(close_on_demand, "127.0.0.1") as server,
            creche.connect(server.url) as ws,
        ):
            await where(ws, exc)

    outcome(main, backend_name, exc)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("where", WHERE[:3])
def test_what_ends_a_program_comes_out_of_serve(backend_name: str, where: Any, ending: str) -> None:
    exc = ENDINGS[ending]()

    async def handler(ws: creche.WebSocket) -> None:
        await where(ws, exc)

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            server = await tg.start(creche.serve, handler, "127.0.0.1")
            async with creche.connect(server.url) as ws:
                await creche.discard(ws)

    outcome(main, backend_name, exc)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("where", WHERE[:3])
def test_what_ends_a_program_comes_out_of_serving_when_it_is_left(
    backend_name: str, where: Any, ending: str
) -> None:
    exc = ENDINGS[ending]()

    async def handler(ws: creche.WebSocket) -> None:
        await where(ws, exc)

    async def main() -> None:
        async with creche.serving(handler, "127.0.0.1") as server:
            async with creche.connect(server.url) as ws:
                await creche.discard(ws)
            await server.wait_stopped()

    outcome(main, backend_name, exc)


@pytest.mark.anyio
async def test_who_is_struck_by_a_signal_as_it_leaves_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """KeyboardInterrupt, say, in the last lines of a client's task: here they are left out."""
    monkeypatch.setattr("creche.server.register._CHECK_SECONDS", 0.01)
    async with creche.serving(echo, "127.0.0.1") as server:
        with monkeypatch.context() as patch:
            patch.setattr("creche.server.visitor.Visitor.__exit__", lambda *_: True)
            async with creche.connect(server.url) as ws:
                await ws.send("x")
                await ws.receive()
        await until(lambda: not server.connections)
        await settle()
        assert server._register.guests
        with anyio.fail_after(20):
            await server.shutdown(grace=60)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_so_does_an_interrupt_where_trio_does_not_handle_ctrl_c(
    backend_name: str, elsewhere: bool
) -> None:
    """As in a process that a shell has started in the background, or in another thread."""
    exc = KeyboardInterrupt()

    async def handler(_ws: creche.WebSocket) -> None:
        raise exc

    async def main() -> None:
        async with creche.serving(handler, "127.0.0.1") as server:
            async with creche.connect(server.url) as ws:
                await creche.discard(ws)
            await server.wait_stopped()

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if elsewhere:
            with ThreadPoolExecutor(1) as threads:
                threads.submit(outcome, main, backend_name, exc).result()
        else:
            outcome(main, backend_name, exc)
    finally:
        signal.signal(signal.SIGINT, before)


async def test_who_has_gone_before_its_turn_is_not_told_any_more() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        clients = [await creche.connect(server.url) for _ in range(3)]
        await until(lambda: len(server.connections) == 3)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(server.shutdown, spread=0.5))
            await until(lambda: server.draining)
            for ws in clients:
                await ws.aclose(4000)
        assert server.stats.closed_by_code[4000] >= 2
