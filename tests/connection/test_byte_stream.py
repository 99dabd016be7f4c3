from __future__ import annotations

import ssl

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

import creche
from creche.options.resolving import CLIENT_DEFAULTS
from creche.testing import memory_pair
from support import echo

pytestmark = pytest.mark.anyio


async def test_bytes_go_through_and_boundaries_are_lost() -> None:
    async with memory_pair() as (client, server):
        ours, theirs = creche.as_byte_stream(client), creche.as_byte_stream(server)
        await ours.send(b"abc")
        await ours.send(b"")
        await client.send(b"")  # an empty message says nothing
        await ours.send(b"defg")
        assert await theirs.receive(2) == b"ab"
        assert await theirs.receive() == b"c"
        assert await theirs.receive(4) == b"defg"
        await theirs.send(b"h")
        assert await ours.receive() == b"h"


async def test_much_at_once_is_sent_in_messages_that_every_peer_takes() -> None:
    data = bytes(range(256)) * 1000
    async with memory_pair(max_size=2**16) as (client, server):
        received = bytearray()

        async def receive() -> None:
            stream = creche.as_byte_stream(server)
            while len(received) < len(data):
                received.extend(await stream.receive())

        async with anyio.create_task_group() as tg:
            tg.start_soon(receive)
            await creche.as_byte_stream(client).send(data)
        assert received == data


async def test_its_ends_are_those_of_streams() -> None:
    async with memory_pair() as (client, server):
        ours, theirs = creche.as_byte_stream(client), creche.as_byte_stream(server)
        await ours.send(b"last")
        await ours.send_eof()
        with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
            await ours.send(b"x")
        assert await theirs.receive() == b"last"
        with pytest.raises(anyio.EndOfStream):
            await theirs.receive()
        with pytest.raises(anyio.EndOfStream):
            await ours.receive()
        await ours.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await ours.receive()


async def test_a_lost_connection_is_a_broken_stream() -> None:
    async with memory_pair() as (client, server):
        await anyio.aclose_forcefully(client)
        with pytest.raises(anyio.BrokenResourceError):
            await creche.as_byte_stream(server).receive()


async def test_text_has_no_place_there() -> None:
    async with memory_pair() as (client, server):
        await client.send("text")
        with pytest.raises(anyio.BrokenResourceError, match="sent text"):
            await creche.as_byte_stream(server).receive()
        assert (server.close_code, server.close_reason) == (1003, "this is a stream of bytes")


async def test_a_receive_of_nothing_is_refused() -> None:
    async with memory_pair() as (client, _):
        with pytest.raises(ValueError, match="max_bytes must be at least 1, not 0"):
            await creche.as_byte_stream(client).receive(0)


@pytest.mark.feature("byte_stream")
async def test_a_websocket_over_tls_runs_through_a_websocket(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def inner(ws: creche.WebSocket) -> None:
        tls = await TLSStream.wrap(
            creche.as_byte_stream(ws), ssl_context=server_tls, server_side=True
        )
        async with creche.server_websocket(tls) as inside:
            await echo(inside)

    async with creche.serving(inner, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            stream = creche.as_byte_stream(ws)
            assert stream.extra(SocketAttribute.remote_port) == server.addresses[0][1]
            tls = await TLSStream.wrap(stream, ssl_context=client_tls, hostname="localhost")
            # Nobody waits for the end of a stream that cannot be half closed.
            with anyio.fail_after(CLIENT_DEFAULTS["close_timeout"] / 2):
                async with creche.client_websocket(tls, "wss://localhost/") as inside:
                    for message in ("x", b"y" * 300_000):
                        await inside.send(message)
                        assert await inside.receive() == message
