"""Closing: who ends TCP, what reaches whom, and the end at every moment of the life."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

import creche
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from creche.protocol.states import Side
from creche.testing import memory_byte_pair, memory_pair
from support import RawPeer, echo, raw_client, raw_server, settle, until

pytestmark = pytest.mark.anyio

NORMAL = (1000).to_bytes(2, "big")
GOING_AWAY = (1001).to_bytes(2, "big")


def reset(peer: RawPeer) -> None:
    """Let the peer's end of the socket be reset when it is closed."""
    sock = peer.stream.extra(SocketAttribute.raw_socket)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def listening(talk: Callable[[RawPeer], Awaitable[object]]) -> AsyncIterator[str]:
    """A raw server over TCP; its URI. It stops when its client has gone."""

    async def handle(stream: Any) -> None:
        async with stream:
            peer = RawPeer(stream, Side.SERVER)
            await peer.shake_hands()
            await talk(peer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        async with anyio.create_task_group() as tg:
            tg.start_soon(listener.serve, handle)
            yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/"
            tg.cancel_scope.cancel()


# Who closes TCP


@pytest.mark.parametrize("who", ["client", "server"])
async def test_the_server_closes_tcp_first_whoever_began(who: str) -> None:
    """RFC 6455 7.1.1: then the client's port is not kept in TIME_WAIT on the server's behalf."""

    async def close(ws: creche.WebSocket) -> None:
        if who == "server":
            await ws.aclose()
        else:
            await creche.discard(ws)

    async with creche.serving(close, "127.0.0.1") as server:
        async with raw_client(server.url) as peer:
            if who == "client":
                await peer.send(CLOSE, NORMAL)
                assert await peer.receive() == (CLOSE, NORMAL)
            else:
                assert await peer.receive() == (CLOSE, NORMAL)
                await peer.send(CLOSE, NORMAL)
            # We have not ended anything, and yet:
            with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
                await peer.stream.receive()


async def test_the_client_waits_for_the_server_to_close_tcp() -> None:
    order = []

    async def talk(peer: RawPeer) -> None:
        assert await peer.receive() == (CLOSE, NORMAL)
        await peer.send(CLOSE, NORMAL)
        await settle()
        order.append("server closes TCP")

    async with listening(talk) as uri:
        async with creche.connect(uri):
            pass
        order.append("client is gone")
    assert order == ["server closes TCP", "client is gone"]


async def test_a_server_that_never_closes_tcp_is_left_after_close_timeout() -> None:
    async with raw_server(close_timeout=0.1) as (ws, peer):
        await peer.send(CLOSE, NORMAL)
        with pytest.raises(creche.ConnectionClosedOK):
            await ws.receive()
        with anyio.fail_after(10):
            await ws.aclose()
        assert ws.close_code == 1000  # it ended well all the same


# What reaches the peer


async def test_no_reset_eats_the_close_frame_though_input_is_unread() -> None:
    """Closing a socket with unread input sends a reset, which destroys what is on its way."""

    async def one_message(ws: creche.WebSocket) -> None:
        assert await ws.receive() == b"x" * 10_000
        # ... and it leaves with the rest unread.

    async with creche.serving(one_message, "127.0.0.1", max_queue=2) as server:
        for _ in range(5):
            async with raw_client(server.url) as peer:
                for _ in range(50):
                    await peer.send(BINARY, b"x" * 10_000)
                assert await peer.receive() == (CLOSE, NORMAL)
                await peer.send(CLOSE, NORMAL)
                await peer.receive_eof()


async def test_no_reset_eats_the_close_frame_after_a_protocol_error() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        async with raw_client(server.url) as peer:
            await peer.stream.send(peer.frame(TEXT, b"\xff") + b"\0" * 100_000)
            opcode, payload = await peer.receive()
            assert (opcode, payload[:2]) == (CLOSE, (1007).to_bytes(2, "big"))


async def test_what_was_committed_before_the_close_frame_reaches_the_peer() -> None:
    async def talk(ws: creche.WebSocket) -> None:
        ws.send_nowait(b"x" * 2**22)
        await ws.aclose(1001, "done")

    async with creche.serving(talk, "127.0.0.1") as server:
        async with creche.connect(server.url, max_size=None) as ws:
            assert await ws.receive() == b"x" * 2**22
            with pytest.raises(creche.ConnectionClosedOK) as caught:
                await ws.receive()
            assert caught.value.received == creche.Close(1001, "done")


# Both at once


async def test_a_simultaneous_close_ends_well_on_both_sides() -> None:
    async with memory_pair() as (client, server):
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.aclose, 1000, "client")
            tg.start_soon(server.aclose, 1001, "server")
        assert (client.close_code, client.close_reason) == (1001, "server")
        assert (server.close_code, server.close_reason) == (1000, "client")


async def test_close_frames_that_cross_are_each_taken_for_the_answer() -> None:
    async with raw_server() as (ws, peer), anyio.create_task_group() as tg:
        tg.start_soon(ws.aclose)
        await peer.send(CLOSE, GOING_AWAY)
        assert await peer.receive() == (CLOSE, NORMAL)
        await peer.stream.aclose()
    assert ws.close_code == 1001


# While something else goes on


@pytest.mark.parametrize("messages", [1, 16, 17, 1000])
async def test_leaving_does_not_hang_however_many_messages_are_unread(messages: int) -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        with anyio.fail_after(20):
            async with creche.connect(server.url, max_queue=16, close_timeout=60) as ws:
                for _ in range(messages):
                    await ws.send("x" * 1000)
                await until(lambda: ws._link.connection.inbox.messages >= min(messages, 16))
        assert ws.close_code == 1000


async def test_a_close_by_the_peer_behind_a_full_inbox_is_met_when_the_rest_is_received() -> None:
    async with raw_server(max_queue=2) as (ws, peer):
        for number in range(10):
            await peer.send(TEXT, str(number).encode())
        await peer.send(CLOSE, NORMAL)
        assert [message async for message in ws] == [str(number) for number in range(10)]
        await peer.stream.aclose()


async def test_a_close_in_the_middle_of_a_fragmented_message_of_the_peer() -> None:
    """We close; the peer goes on with its message, and is not misunderstood."""
    async with raw_server() as (ws, peer), anyio.create_task_group() as tg:
        await peer.send(TEXT, b"begun", fin=False)
        await settle()
        tg.start_soon(ws.aclose)
        assert await peer.receive() == (CLOSE, NORMAL)
        await peer.send(CONTINUATION, b" and ", fin=False)
        await peer.send(PING, b"?")
        await peer.send(CONTINUATION, b"ended")
        await peer.send(CLOSE, NORMAL)
        await peer.stream.aclose()
    assert ws.close_code == 1000


async def test_the_peer_closes_in_the_middle_of_its_own_message() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(TEXT, b"whole")
        await peer.send(TEXT, b"begun", fin=False)
        await peer.send(CLOSE, NORMAL)
        assert await ws.receive() == "whole"
        with pytest.raises(creche.ConnectionClosedOK):
            await ws.receive()  # and not the half of a message
        assert await peer.receive() == (CLOSE, NORMAL)
        await peer.stream.aclose()


async def test_a_send_that_waits_for_room_is_told_of_our_own_close() -> None:
    errors = []

    async def send(ws: creche.WebSocket) -> None:
        try:
            await ws.send("more")
        except creche.ConnectionAlreadyClosed as exc:
            errors.append(exc)

    async with raw_server(clogged_after=0, write_limit=10, close_timeout=0.1) as (ws, _):
        ws.send_nowait("x" * 100)
        async with anyio.create_task_group() as tg:
            tg.start_soon(send, ws)
            await settle()
            assert not errors
            await ws.aclose()
    assert len(errors) == 1


async def test_a_send_that_waits_for_room_is_told_of_the_peers_close() -> None:
    async with raw_server(write_limit=10, close_timeout=0.1) as (ws, peer):
        peer.stream._peer.clogged_after = 0
        ws.send_nowait("x" * 100)
        async with anyio.create_task_group() as tg:
            tg.start_soon(peer.send, CLOSE, NORMAL)
            with pytest.raises(creche.ConnectionClosedOK) as caught:
                await ws.send("more")
        assert isinstance(caught.value, anyio.BrokenResourceError)


async def test_no_message_follows_the_close_frame() -> None:
    async with raw_server() as (ws, peer):
        ws.send_nowait("before")
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.aclose)
            await settle()
            with pytest.raises(creche.ConnectionAlreadyClosed):
                ws.send_nowait("after")
            await peer.send(PING, b"no answer is due any more")
            assert await peer.receive() == (TEXT, b"before")
            assert await peer.receive() == (CLOSE, NORMAL)
            assert not peer.stream._arrived
            await peer.send(CLOSE, NORMAL)
            await peer.stream.aclose()


# Half-closed


async def test_after_send_eof_the_peers_messages_are_still_received() -> None:
    async with raw_server() as (ws, peer):
        await ws.send_eof()
        assert await peer.receive() == (CLOSE, NORMAL)
        await peer.send(TEXT, b"last words")
        assert await ws.receive() == "last words"
        with pytest.raises(creche.ConnectionAlreadyClosed):
            await ws.send("x")
        await peer.send(CLOSE, NORMAL)
        with pytest.raises(creche.ConnectionClosedOK):
            await ws.receive()
        await peer.stream.aclose()


async def test_after_send_eof_a_peer_that_does_not_close_is_left_after_close_timeout() -> None:
    async with raw_server(close_timeout=0.1) as (ws, _):
        await ws.send_eof()
        with anyio.fail_after(10), pytest.raises(creche.ConnectionClosedError, match="close timeo"):
            await ws.receive()


# Ends without a close frame


async def test_an_end_of_the_bytes_without_a_close_frame_is_an_error_after_what_arrived() -> None:
    async def talk(peer: RawPeer) -> None:
        await peer.send(TEXT, b"one")
        await peer.send(TEXT, b"two")

    async with listening(talk) as uri, creche.connect(uri) as ws:
        assert await ws.receive() == "one"
        assert await ws.receive() == "two"
        with pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.receive()
        assert caught.value.code == 1006
        assert "without a closing handshake" in str(caught.value)


async def tear_after_handshake(peer: RawPeer) -> None:
    pass


async def tear_within_a_header(peer: RawPeer) -> None:
    await peer.stream.send(b"\x82")


async def tear_within_a_payload(peer: RawPeer) -> None:
    await peer.stream.send(b"\x82\x7e\x10\x00abc")


async def tear_between_fragments(peer: RawPeer) -> None:
    await peer.send(TEXT, b"begun", fin=False)


async def tear_while_we_send(peer: RawPeer) -> None:
    await peer.receive()


async def tear_after_our_ping(peer: RawPeer) -> None:
    while (await peer.receive())[0] != PING:
        pass


async def tear_within_the_closing_handshake(peer: RawPeer) -> None:
    while (await peer.receive())[0] != CLOSE:
        pass


MOMENTS = [
    tear_after_handshake,
    tear_within_a_header,
    tear_within_a_payload,
    tear_between_fragments,
    tear_while_we_send,
    tear_after_our_ping,
    tear_within_the_closing_handshake,
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
@pytest.mark.parametrize("how", ["reset", "end"])
async def test_a_tcp_connection_that_ends_at_any_moment_ends_everything_in_time(
    moment: Callable[[RawPeer], Awaitable[None]], how: str
) -> None:
    async def talk(peer: RawPeer) -> None:
        await moment(peer)
        if how == "reset":
            reset(peer)

    errors = []

    async def producer(ws: creche.WebSocket) -> None:
        for _ in range(20):
            await ws.send(b"x" * 10_000)
            await anyio.lowlevel.checkpoint()
        if moment is tear_within_the_closing_handshake:
            return
        try:
            await ws.ping()
        except creche.ConnectionClosedError as exc:
            errors.append(exc)
            raise

    async with listening(talk) as uri:
        with anyio.fail_after(10):
            async with creche.connect(uri, ping_interval=None) as ws:
                try:
                    await ws.run(producer, creche.discard)
                except creche.ConnectionClosedError as exc:
                    errors.append(exc)
        assert ws.close_code == 1006
        if moment is not tear_within_the_closing_handshake:
            assert errors
            assert all(exc.code == 1006 for exc in errors)


async def test_a_tcp_connection_that_ends_within_the_opening_handshake_is_an_error() -> None:
    for answer in (b"", b"HTTP/1.1 101 Swi", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso"):

        async def handle(stream: Any, answer: bytes = answer) -> None:
            async with stream:
                await stream.receive()
                if answer:
                    await stream.send(answer)

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(SocketAttribute.local_port)
            async with anyio.create_task_group() as tg:
                tg.start_soon(listener.serve, handle)
                with anyio.fail_after(10), pytest.raises((creche.HandshakeError, OSError)):
                    async with creche.connect(f"ws://127.0.0.1:{port}/"):
                        raise AssertionError
                tg.cancel_scope.cancel()


async def test_tls_that_ends_without_close_notify_is_noticed(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """A truncation attack: somebody in between ends TCP."""
    errors = []

    async def handler(ws: creche.WebSocket) -> None:
        try:
            await ws.receive()
        except creche.ConnectionClosed as exc:
            errors.append(exc)

    async with creche.serving(handler, "localhost", ssl=server_tls) as server:
        stream = await anyio.connect_tcp(
            "localhost", server.addresses[0][1], tls=True, ssl_context=client_tls
        )
        await RawPeer(stream, Side.CLIENT).shake_hands()
        await until(lambda: server.connections)
        sock = stream.extra(SocketAttribute.raw_socket)
        with socket.socket(fileno=os.dup(sock.fileno())) as below:
            below.shutdown(socket.SHUT_RDWR)
        await until(lambda: errors)
        await anyio.aclose_forcefully(stream)
    assert isinstance(errors[0], creche.ConnectionClosedError)
    assert errors[0].code == 1006


async def test_memory_streams_end_as_sockets_do() -> None:
    ours, theirs = memory_byte_pair()
    peer = RawPeer(theirs, Side.SERVER)
    async with anyio.create_task_group() as tg:
        tg.start_soon(peer.shake_hands)
        async with creche.client_websocket(ours, "ws://localhost/") as ws:
            await peer.send(PONG)
            await theirs.aclose()
            with pytest.raises(creche.ConnectionClosedError) as caught:
                await ws.receive()
            assert caught.value.code == 1006
