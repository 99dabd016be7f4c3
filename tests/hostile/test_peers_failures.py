"""What goes wrong in other libraries goes right here; where it makes sense, against them."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import aiohttp
import anyio
import pytest
import websockets
from aiohttp import web

import creche
from peers import aiohttp_server, in_thread, websockets_server
from support import cancelled_once, echo, raw_client, until

pytestmark = pytest.mark.anyio

LARGE = 300_000


class SlowReader:
    """A peer that begins to read when it is told to, and keeps what it reads."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.received: list[Any] = []
        self.error: BaseException | None = None

    async def wait(self) -> None:
        while not self.go.is_set():
            await asyncio.sleep(0.001)

    async def websockets(self, ws: websockets.ServerConnection) -> None:
        await self.wait()
        try:
            async for message in ws:
                self.received.append(message)
        except websockets.ConnectionClosedError as exc:
            self.error = exc

    async def aiohttp(self, ws: web.WebSocketResponse) -> None:
        await self.wait()
        async for message in ws:
            if message.type is aiohttp.WSMsgType.ERROR:
                self.error = ws.exception()
            else:
                self.received.append(message.data)


@pytest.mark.parametrize("peer", ["websockets", "aiohttp"])
async def test_a_cancelled_send_leaves_no_half_frame_and_the_next_send_arrives(peer: str) -> None:
    """websockets on trio: half a frame is out, and the next send is lost without an error."""
    reader = SlowReader()
    server = (
        websockets_server(reader.websockets, max_queue=1)
        if peer == "websockets"
        else aiohttp_server(reader.aiohttp)
    )
    sent = []
    with in_thread(server) as port:
        async with creche.connect(f"ws://127.0.0.1:{port}/", compression=None) as ws:
            cancelled = 0
            number = 0
            while cancelled < 5:  # until the kernel, too, has no room left
                message = bytes([number % 256]) * LARGE
                number += 1
                with anyio.move_on_after(0.02) as scope:
                    await ws.send(message)
                    sent.append(message)
                cancelled += scope.cancelled_caught
            reader.go.set()
            await ws.send("and this one")
            sent.append("and this one")  # type: ignore[arg-type]
        assert ws.close_code == 1000
    assert reader.error is None
    assert [bytes(m) if isinstance(m, bytearray) else m for m in reader.received] == sent


async def test_leaving_with_more_than_16_unread_messages_does_not_hang() -> None:
    """websockets on trio: leaving `async with` hangs."""

    async def talk(ws: websockets.ServerConnection) -> None:
        for number in range(1000):
            await ws.send(f"{number}")
        await ws.wait_closed()

    with in_thread(websockets_server(talk)) as port:
        with anyio.fail_after(20):
            async with creche.connect(f"ws://127.0.0.1:{port}/", close_timeout=60) as ws:
                await until(lambda: ws._link.connection.inbox.full)
        assert ws.close_code == 1000


async def test_a_stalled_peer_is_dropped() -> None:
    """websockets: never, though it says so: its keepalive itself waits to be written."""
    reader = SlowReader()
    with in_thread(websockets_server(reader.websockets, max_queue=1)) as port:
        try:
            async with creche.connect(
                f"ws://127.0.0.1:{port}/", stall_timeout=0.3, close_timeout=0.1
            ) as ws:
                with anyio.fail_after(20), pytest.raises(creche.ConnectionClosedError) as caught:
                    while True:
                        await ws.send(b"x" * LARGE)
        finally:
            reader.go.set()
    assert "stall timeout" in str(caught.value)


async def test_a_failing_handler_does_not_end_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """trio-websocket: its server dies with one handler."""

    async def handler(ws: creche.WebSocket) -> None:
        async for message in ws:
            if message == "fail":
                raise KeyError("a bug")
            await ws.send(message)

    async with creche.serving(handler, "127.0.0.1") as server:

        async def others() -> None:
            async with (
                websockets.connect(server.url) as good,
                websockets.connect(server.url) as bad,
            ):
                await bad.send("fail")
                with pytest.raises(websockets.ConnectionClosedError) as caught:
                    await bad.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 1011
                await good.send("still here")
                assert await good.recv() == "still here"

        await anyio.to_thread.run_sync(asyncio.run, others())
        assert server.stats.failed == 1
    assert [r.levelname for r in caplog.records if r.levelno > logging.INFO] == ["ERROR"]


async def test_a_break_out_of_the_messages_leaves_in_order() -> None:
    """websockets on trio: `break` out of a loop over connections crashes trio."""
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            for number in range(3):
                await ws.send(f"{number}")
            async for message in ws:
                assert message == "0"
                break
            assert await ws.receive() == "1"
        assert ws.close_code == 1000


async def test_a_cancelled_client_sends_a_close_frame() -> None:
    """websockets on trio: it never does when it is cancelled."""
    seen: list[int | None] = []

    async def note(ws: websockets.ServerConnection) -> None:
        await ws.wait_closed()
        seen.append(ws.close_code)

    with in_thread(websockets_server(note)) as port:
        opened = anyio.Event()
        async with cancelled_once(opened.is_set):
            async with creche.connect(f"ws://127.0.0.1:{port}/"):
                opened.set()
                await anyio.sleep_forever()
        await until(lambda: seen)
    assert seen == [1001]


async def test_the_users_error_is_not_wrapped_in_a_group() -> None:
    """httpx-ws wraps every one."""
    async with creche.serving(echo, "127.0.0.1") as server:
        error = KeyError("the user's")
        with pytest.raises(KeyError) as caught:
            async with creche.connect(server.url):
                raise error
        assert caught.value is error


async def test_many_stalled_clients_do_not_keep_a_server_from_ending() -> None:
    async def talk(ws: creche.WebSocket) -> None:
        while True:
            await ws.send(b"x" * LARGE)

    with anyio.fail_after(10):
        async with creche.serving(talk, "127.0.0.1", close_timeout=0.1) as server:
            async with raw_client(server.url), raw_client(server.url), raw_client(server.url):
                await until(lambda: len(server.connections) == 3)
                await server.shutdown(grace=0)
