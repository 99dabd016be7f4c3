"""Real peers: websockets and aiohttp, both ways, plain and TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import anyio
import pytest
import websockets
from aiohttp import web

import creche
from peers import Server, aiohttp_server, in_thread, websockets_server
from support import echo

pytestmark = pytest.mark.anyio

MESSAGES: list[str | bytes] = [
    "text é☃🐍",
    b"binary \x00\xff",
    "",
    b"",
    "x" * (10 * 2**20),
    b"\xff" * (10 * 2**20),
]
MAX_SIZE = 2**24


async def websockets_client(url: str, tls: ssl.SSLContext | None) -> None:
    async with websockets.connect(url, ssl=tls, max_size=MAX_SIZE) as ws:
        for message in MESSAGES:
            await ws.send(message)
            assert await ws.recv() == message
    assert ws.close_code == 1000


async def aiohttp_client(url: str, tls: ssl.SSLContext | None) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, ssl=tls or True, max_msg_size=MAX_SIZE) as ws,
    ):
        for message in MESSAGES:
            if isinstance(message, str):
                await ws.send_str(message)
                assert await ws.receive_str() == message
            else:
                await ws.send_bytes(message)
                assert await ws.receive_bytes() == message
    assert ws.close_code == 1000


async def websockets_echo(ws: websockets.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def aiohttp_echo(ws: web.WebSocketResponse) -> None:
    async for message in ws:
        if message.type is aiohttp.WSMsgType.TEXT:
            await ws.send_str(message.data)
        else:
            await ws.send_bytes(message.data)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("client", [websockets_client, aiohttp_client])
async def test_clients_of_others_echo_through_our_server(
    client: Callable[[str, ssl.SSLContext | None], Coroutine[Any, Any, None]],
    secure: bool,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    tls = server_tls if secure else None
    async with creche.serving(echo, "localhost", ssl=tls, max_size=MAX_SIZE) as server:
        await anyio.to_thread.run_sync(
            asyncio.run, client(server.url, client_tls if secure else None)
        )


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "server",
    [websockets_server(websockets_echo), aiohttp_server(aiohttp_echo)],
    ids=["websockets", "aiohttp"],
)
async def test_our_clients_echo_through_servers_of_others(
    server: Server, secure: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with in_thread(server, server_tls if secure else None) as port:
        url = f"{'wss' if secure else 'ws'}://localhost:{port}/"
        async with creche.connect(url, ssl=client_tls if secure else None, max_size=MAX_SIZE) as ws:
            for message in MESSAGES:
                await ws.send(message)
                assert await ws.receive() == message
            assert await ws.ping() > 0
        assert ws.close_code == 1000
