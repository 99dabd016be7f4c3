"""Idle connections live, dead peers are dropped, and nothing is left when all is over."""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

import creche
from creche.protocol.frames import PING, TEXT
from creche.testing import memory_pair
from support import (
    FAKE_TIME,
    echo,
    open_socket,
    raise_descriptor_limit,
    raw_client,
    raw_server,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_an_idle_connection_lives_for_ten_minutes_of_fake_time(backend: str) -> None:
    async def main() -> None:
        start = anyio.current_time()
        async with memory_pair() as (client, server):
            await anyio.sleep(600)
            for end in (client, server):
                assert end.close_code is None
            assert client.latency is not None
            await client.send("still here")
            assert await server.receive() == "still here"
        assert anyio.current_time() - start >= 600

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_a_peer_that_stops_answering_is_dropped_after_interval_and_timeout(backend: str) -> None:
    async def main() -> None:
        start = anyio.current_time()
        async with raw_server(ping_interval=30, ping_timeout=15) as (ws, _):
            with pytest.raises(creche.ConnectionClosedError, match="keepalive ping timeout"):
                await ws.receive()
            assert anyio.current_time() - start == pytest.approx(45)

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


async def test_an_idle_connection_lives_in_real_time() -> None:
    # Only one end pings: what it receives of the other's would put its own off.
    async with creche.serving(echo, "127.0.0.1", ping_interval=None) as server:
        async with creche.connect(server.url, ping_interval=0.05) as ws:
            latencies: set[float | None] = set()
            while len(latencies) < 4:  # answers to pings
                latencies.add(ws.latency)
                await anyio.sleep(0.01)
            await ws.send("still here")
            assert await ws.receive() == "still here"


async def test_a_dead_peer_is_dropped_after_interval_and_timeout_in_real_time() -> None:
    errors = []

    async def handler(ws: creche.WebSocket) -> None:
        start = anyio.current_time()
        try:
            await ws.receive()
        except creche.ConnectionClosedError as exc:
            errors.append((exc, anyio.current_time() - start))
            raise

    async with (
        creche.serving(handler, "127.0.0.1", ping_interval=0.1, ping_timeout=0.2) as server,
        raw_client(server.url) as peer,
    ):
        assert (await peer.receive())[0] == PING
        await until(lambda: errors)
    [(error, seconds)] = errors
    assert "keepalive ping timeout" in str(error)
    assert error.code == 1006
    assert seconds > 0.25


async def test_after_a_connection_nothing_is_left_without_the_garbage_collector() -> None:
    left: list[weakref.ref[Any]] = []

    async def handler(ws: creche.WebSocket) -> None:
        left.extend([weakref.ref(ws), weakref.ref(ws._link)])
        await ws.run(echo)

    async def visit(url: str, manner: str) -> None:
        if manner == "polite":
            async with creche.connect(url) as ws:
                left.extend([weakref.ref(ws), weakref.ref(ws._link)])
                await ws.send("x")
                await ws.receive()
            return
        async with raw_client(url) as peer:
            if manner == "wrong":
                await peer.send(TEXT, b"\xff")
                await peer.receive()
            elif manner == "rude":
                sock = peer.stream.extra(SocketAttribute.raw_socket)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    gc.collect()
    gc.disable()
    try:
        async with creche.serving(handler, "127.0.0.1") as server:
            for manner in ("polite", "rude", "wrong", "silent", "polite"):
                await visit(server.url, manner)
            await until(lambda: not server.connections)
            # The server is still there: nothing of it may hold on to a connection.
            await until(lambda: all(ref() is None for ref in left))
            assert len(left) == 2 * (5 + 2)
        async with anyio.create_task_group() as tg:
            server = await tg.start(creche.serve, handler, "127.0.0.1")
            async with raw_client(server.url) as peer:
                await until(lambda: server.connections)
                tg.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await peer.receive_eof()
        assert len(left) == 2 * (5 + 2 + 1)
        assert [ref() for ref in left] == [None] * len(left)
    finally:
        gc.enable()


IDLE = 2000


@pytest.mark.timeout(120)
def test_2000_idle_connections_leave_nothing_behind(backend_name: str) -> None:
    raise_descriptor_limit()
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("idle_server.py")), backend_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    clients = []
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(IDLE):
            clients.append(open_socket(port))
        process.stdin.close()
        for sock in clients:
            data = sock.recv(10)
            while data[:1] == b"\x89":  # a ping, on a machine that is slow
                data = data[6:] or sock.recv(10)
            assert data == b"\x88\x02\x03\xe9"  # 1001
            sock.sendall(b"\x88\x82\0\0\0\0\x03\xe9")
            sock.close()
        counts = json.loads(process.stdout.readline())
        assert counts == {"open": IDLE, "tasks": 0, "descriptors": 0, "websockets": 0}
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        for sock in clients:
            sock.close()
