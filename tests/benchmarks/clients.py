"""The clients that are compared: `python clients.py NAME LOOP PORT` runs one.

It connects to the port on loopback once for each line of its input, and answers on each connection
as the servers do. It ends at the end of its input.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from servers import FEED, FEED_MESSAGES, MESSAGE, answering, run_on


async def cast_to_nobody(connections: object) -> None:
    """A client has no others to tell."""


handler = answering(cast_to_nobody)


async def connect_creche(uri: str) -> None:
    import creche

    async with creche.connect(uri, proxy=None) as ws:
        await handler(ws)


async def connect_websockets(uri: str) -> None:
    import websockets

    async with websockets.connect(uri, proxy=None) as ws:
        await handler(ws)


async def connect_websockets_trio(uri: str) -> None:
    from websockets.trio.client import connect

    async with connect(uri, proxy=None) as ws:
        await handler(ws)


async def connect_picows_websockets(uri: str) -> None:
    import picows.websockets

    async with picows.websockets.connect(uri, proxy=None) as ws:
        await handler(ws)


async def connect_picows(uri: str) -> None:
    import picows

    class Listener(picows.WSListener):  # type: ignore[misc, unused-ignore]
        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            message = frame.get_payload_as_bytes()
            if message == FEED:
                for _ in range(FEED_MESSAGES):
                    transport.send(picows.WSMsgType.BINARY, MESSAGE)
            else:
                transport.send(frame.msg_type, message)

    transport, _ = await picows.ws_connect(Listener, uri)
    await transport.wait_disconnected()


async def connect_aiohttp(uri: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(uri) as ws:
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.data == FEED:
                for _ in range(FEED_MESSAGES):
                    await ws.send_bytes(MESSAGE)
            else:
                await ws.send_bytes(message.data)


async def connect_trio_websocket(uri: str) -> None:
    from trio_websocket import open_websocket_url

    async with open_websocket_url(uri) as ws:
        while True:
            message = await ws.get_message()
            if message == FEED:
                for _ in range(FEED_MESSAGES):
                    await ws.send_message(MESSAGE)
            else:
                await ws.send_message(message)


Client = Callable[[str], Awaitable[None]]

CLIENTS: dict[tuple[str, str], Client] = {
    ("creche", "asyncio"): connect_creche,
    ("creche", "uvloop"): connect_creche,
    ("creche", "trio"): connect_creche,
    ("picows", "asyncio"): connect_picows,
    ("picows", "uvloop"): connect_picows,
    ("picows.websockets", "asyncio"): connect_picows_websockets,
    ("picows.websockets", "uvloop"): connect_picows_websockets,
    ("aiohttp", "asyncio"): connect_aiohttp,
    ("aiohttp", "uvloop"): connect_aiohttp,
    ("websockets", "asyncio"): connect_websockets,
    ("websockets", "uvloop"): connect_websockets,
    ("websockets", "trio"): connect_websockets_trio,
    ("trio-websocket", "trio"): connect_trio_websocket,
}


async def connect_all(client: Client, uri: str) -> None:
    async def connect_one() -> None:
        try:
            await client(uri)
        except Exception as exc:  # the load has gone
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr)

    async with anyio.create_task_group() as tg:
        while await anyio.to_thread.run_sync(sys.stdin.readline):
            tg.start_soon(connect_one)
        tg.cancel_scope.cancel()


def main() -> None:
    name, loop, port = sys.argv[1:]
    client = CLIENTS[name, loop]
    arguments: tuple[Any, ...] = (client, f"ws://127.0.0.1:{port}/")
    run_on(loop, connect_all, *arguments)


if __name__ == "__main__":
    main()
