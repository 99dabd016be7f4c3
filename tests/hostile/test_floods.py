"""Floods: what a peer sends too much of is bounded in memory, and others get their turn.

What a flood costs the others in time and memory is measured by tests/floods.py.
"""

from __future__ import annotations

import logging
import resource
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

import creche
from creche.protocol.connection import Connection
from creche.protocol.control_frames import DRAIN_BYTES
from creche.protocol.extensions import Extension
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, append_frame
from creche.protocol.parsing import FRAMES_IN_A_ROW
from creche.protocol.states import Side, State
from creche.testing import memory_byte_pair, memory_pair
from support import (
    RawPeer,
    cancelled_once,
    count_descriptors,
    echo,
    raw_client,
    raw_server,
    said,
    settle,
    until,
)

pytestmark = pytest.mark.anyio

WRITE_LIMIT = 2**16


def frames(count: int, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    frame = bytearray()
    append_frame(frame, opcode, payload, b"\1\2\3\4", fin)
    return bytes(frame) * count


@asynccontextmanager
async def flooded(
    *, offering: Sequence[creche.ExtensionFactory] = (), **options: Any
) -> AsyncIterator[tuple[creche.WebSocket, RawPeer]]:
    """A server's end of a connection in memory, and the client that floods it."""
    ours, theirs = memory_byte_pair()
    peer = RawPeer(theirs, Side.CLIENT)
    async with anyio.create_task_group() as tg:
        tg.start_soon(peer.shake_hands, offering)
        async with creche.server_websocket(ours, close_timeout=0.1, **options) as ws:
            await settle()
            yield ws, peer


async def count_turns(turns: list[int]) -> None:
    """What every other task does meanwhile."""
    while True:
        turns[0] += 1
        await checkpoint()


FLOODS: dict[str, tuple[bytes, bytes]] = {
    # what is sent before, and the flood: each fills one segment of 64 KiB or less
    "pings": (b"", frames(10_000, PING)),
    "unsolicited pongs": (b"", frames(10_000, PONG)),
    "empty fragments": (frames(1, BINARY, fin=False), frames(10_000, CONTINUATION, fin=False)),
    "one-byte fragments": (
        frames(1, TEXT, fin=False),
        frames(9_000, CONTINUATION, b"x", fin=False),
    ),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_small_frames_lets_others_have_their_turn(name: str) -> None:
    before, flood = FLOODS[name]
    turns = [0]
    async with flooded() as (ws, peer), anyio.create_task_group() as tg:
        tg.start_soon(count_turns, turns)
        await peer.stream.send(before + flood)
        tail = ws._link.connection._tail
        await until(lambda: tail)
        turns[0] = 0
        left = len(tail) // len(frames(1, PING, b"x"))
        await until(lambda: not tail)
        assert turns[0] >= left // FRAMES_IN_A_ROW - 2
        # The connection is as good as before.
        if name not in ("pings", "unsolicited pongs"):
            await peer.send(CONTINUATION)
            assert len(await ws.receive()) in (0, 9_000)
        await peer.send(TEXT, b"still here")
        assert await ws.receive() == "still here"
        tg.cancel_scope.cancel()


async def test_an_inbox_that_fills_while_others_have_their_turn_loses_nothing() -> None:
    """Reading pauses for two reasons at once then."""
    async with flooded(max_queue=2) as (ws, peer):
        link = ws._link
        data = bytearray(frames(FRAMES_IN_A_ROW + 2, PONG))
        link.data_received(data, len(data))
        assert link.connection.must_continue
        data = bytearray(frames(2, BINARY, b"x") + frames(1000, PONG))
        link.data_received(data, len(data))
        assert link.connection.must_pause()
        for _ in range(2):
            assert await ws.receive() == b"x"
        # There is room in the inbox, but not yet a turn for this peer.
        assert link.connection.must_continue
        assert link.transport._paused  # type: ignore[attr-defined]
        await peer.send(TEXT, b"still here")
        assert await ws.receive() == "still here"


async def test_a_flood_of_pings_is_answered_while_the_peer_reads() -> None:
    async with flooded() as (_, peer):
        await peer.stream.send(frames(1000, PING, b"p"))
        for _ in range(1000):
            assert await peer.receive() == (PONG, b"p")


async def test_a_flood_of_pings_by_a_peer_that_reads_nothing_grows_nothing() -> None:
    async with flooded() as (ws, peer):
        peer.stream._peer.clogged_after = 0
        for _ in range(20):
            await peer.stream.send(frames(500, PING, b"p" * 125))
            await settle()
        await until(lambda: not ws._link.connection._tail)
        assert ws.buffered_amount <= WRITE_LIMIT + 127
        # The newest is answered when there is room (RFC 6455 5.5.3).
        await peer.send(PING, b"newest")
        await settle()
        peer.stream._peer.clogged_after = None
        answers: list[bytes] = []
        while not answers or answers[-1] != b"newest":
            answers.append((await peer.receive())[1])
        assert len(answers) < 1000


async def test_a_flood_of_fragments_is_ended_with_1009() -> None:
    async with flooded(max_fragments=1000) as (ws, peer):
        await peer.stream.send(frames(1, BINARY, fin=False) + frames(1000, CONTINUATION, fin=False))
        with pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.receive()
        assert isinstance(caught.value.__cause__, creche.PayloadTooBig)
        assert "more than max_fragments=1000 frames" in str(caught.value)
        opcode, payload = await peer.receive()
        assert (opcode, payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))


def test_one_byte_fragments_cost_little_more_than_their_bytes() -> None:
    connection = Connection(Side.SERVER, bytearray(), 0)
    connection.receive_data(frames(1, TEXT, fin=False), 0)
    data = frames(FRAMES_IN_A_ROW, CONTINUATION, b"x", fin=False)
    for _ in range(1000):
        connection.receive_data(data, 0)
        assert not connection.must_continue
    assert connection.kept() < 1.5 * 1000 * FRAMES_IN_A_ROW + 30_000
    assert not connection.outbox


async def test_unsolicited_pongs_are_ignored() -> None:
    async with flooded() as (ws, peer), anyio.create_task_group() as tg:
        await peer.stream.send(frames(1000, PONG, b"guess"))
        tg.start_soon(ws.ping)
        while (await peer.receive())[0] != PING:
            pass
        await peer.stream.send(frames(1000, PONG, b"guess"))
        await settle()
        assert ws.latency is None
        assert not ws.buffered_amount
        tg.cancel_scope.cancel()


def test_data_after_the_close_frame_is_dropped_and_ends_the_transport_after_a_mebibyte() -> None:
    connection = Connection(Side.SERVER, bytearray(), 0)
    connection.receive_data(frames(1, TEXT, b"before") + frames(1, CLOSE), 0)
    data = frames(1, BINARY, b"x" * 10_000)
    sent = 0
    while connection.state is State.CLOSED:
        connection.receive_data(data, 0)
        sent += len(data)
        assert connection.kept() < 300
    assert DRAIN_BYTES < sent <= DRAIN_BYTES + len(data)
    assert connection.next_message(0) == "before"
    assert connection.next_message(0) is None


async def test_data_after_the_close_frame_does_not_hold_up_the_server() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        async with raw_client(server.url) as peer:
            await peer.send(CLOSE)
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                while True:
                    await peer.send(BINARY, b"x" * 60_000)
            await until(lambda: not server.connections)


async def test_ten_thousand_empty_messages_in_one_segment_are_received_and_counted() -> None:
    turns = [0]
    async with flooded() as (ws, peer), anyio.create_task_group() as tg:
        tg.start_soon(count_turns, turns)
        await peer.stream.send(frames(10_000, BINARY))
        await until(lambda: ws._link.connection.inbox.full)
        await settle()
        assert ws._link.connection.inbox.messages == ws._link.connection.inbox.max_queue
        turns[0] = 0
        for _ in range(10_000):
            assert await ws.receive() == b""
        assert turns[0] >= 10_000 // 40  # one in 32 at least, but for those that waited
        tg.cancel_scope.cancel()


# Clients without end


async def half_open(server: creche.Server) -> Any:
    stream = await anyio.connect_tcp(*server.addresses[0])
    await stream.send(b"GET / HTTP/1.1\r\nHost: local")
    return stream


async def receive_end(stream: Any) -> None:
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await stream.receive()


async def test_half_open_handshakes_cannot_lock_others_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        AsyncExitStack() as stack,
        creche.serving(echo, "127.0.0.1", max_handshakes=3) as server,
    ):
        slow = []
        for count in range(1, 6):
            slow.append(await stack.enter_async_context(await half_open(server)))
            await until(lambda count=count: server.stats.accepted == count)  # type: ignore[misc]
        for stream in slow[:2]:  # the oldest
            await receive_end(stream)
        assert server.stats.refused == 2
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
        await receive_end(slow[2])
        # The younger ones may still finish.
        for stream in slow[3:]:
            await stream.send(
                b"host\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
            await stream.aclose()
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1  # not one for each
    assert "max_handshakes=3" in warnings[0].getMessage()


async def test_a_crowd_of_handshakes_is_accepted_slowly_so_that_each_has_a_time() -> None:
    async with creche.serving(echo, "127.0.0.1", max_handshakes=3) as server:
        with ExitStack() as stack:
            for _ in range(53):
                stack.enter_context(socket.create_connection(server.addresses[0]))
            start = anyio.current_time()
            await until(lambda: server.stats.accepted == 53)
            assert anyio.current_time() - start >= 49 * 0.002


async def test_a_full_server_answers_503_and_when_to_come_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def health(request: creche.Request) -> creche.Response | None:
        return creche.Response(200) if request.path == "/health" else None

    async with creche.serving(
        echo, "127.0.0.1", max_connections=2, process_request=health
    ) as server:
        async with creche.connect(server.url), creche.connect(server.url):
            for _ in range(3):
                with pytest.raises(creche.InvalidStatus) as caught:
                    async with creche.connect(server.url):
                        raise AssertionError
                assert caught.value.response.status == 503
                assert int(caught.value.response.headers["Retry-After"]) > 0
            assert len(server.connections) == 2
            with pytest.raises(creche.InvalidStatus, match="200"):
                async with creche.connect(server.url + "health"):
                    raise AssertionError
        await until(lambda: not server._register.guests)
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings
    assert all("max_connections=2" in warning.getMessage() for warning in warnings)


async def test_of_many_handshakes_at_once_no_more_than_max_connections_succeed() -> None:
    opened: list[str] = []
    refused: list[str] = []

    async def visit(url: str) -> None:
        try:
            async with creche.connect(url):
                opened.append(url)
                await until(lambda: len(opened) + len(refused) == 20)
        except creche.InvalidStatus:
            refused.append(url)

    async with creche.serving(echo, "127.0.0.1", max_connections=5) as server:
        async with anyio.create_task_group() as tg:
            for _ in range(20):
                tg.start_soon(visit, server.url)
    assert (len(opened), len(refused)) == (5, 15)


async def test_beyond_max_buffered_bytes_the_connection_with_the_most_is_ended() -> None:
    ends: dict[str, BaseException] = {}

    async def stuck(ws: creche.WebSocket) -> None:
        name = await ws.receive()
        await until(lambda: ws.close_code is not None or "end" in ends)
        try:
            await ws.receive()
        except creche.ConnectionClosed as exc:
            ends[str(name)] = exc
            raise

    async with creche.serving(
        stuck, "127.0.0.1", max_buffered_bytes=300_000, close_timeout=0.1
    ) as server:
        async with (
            raw_client(server.url) as modest,
            raw_client(server.url) as greedy,
        ):
            await modest.send(TEXT, b"modest")
            await modest.send(BINARY, b"x" * 100_000)
            await until(lambda: server._account.buffers.total >= 100_000)
            await greedy.send(TEXT, b"greedy")
            await greedy.send(BINARY, b"x" * 150_000, fin=False)  # also what is not finished
            await until(lambda: server._account.buffers.total >= 250_000)
            assert len(server.connections) == 2
            await greedy.send(CONTINUATION, b"x" * 60_000, fin=False)
            await until(lambda: "greedy" in ends)
            assert server._account.buffers.total <= 110_000
            await until(lambda: len(server.connections) == 1)
            ends["end"] = KeyError()  # the modest one receives its message
            await until(lambda: not server.connections)
            assert server._account.buffers.total == 0
    assert "modest" not in ends
    assert isinstance(ends["greedy"], creche.ConnectionClosedError)
    assert "max_buffered_bytes" in str(ends["greedy"])
    assert "300000 bytes" in str(ends["greedy"])


async def test_what_is_never_received_counts_no_more_when_its_handler_has_returned() -> None:
    async def leave_one(ws: creche.WebSocket) -> None:
        await until(lambda: ws.close_code is not None)
        await ws.receive()

    async with creche.serving(leave_one, "127.0.0.1") as server:
        async with raw_client(server.url) as peer:
            for _ in range(2):
                await peer.send(BINARY, b"x" * 50_000)
            await until(lambda: server._account.buffers.total >= 100_000)
        await until(lambda: not server._register.guests)
        assert server.stats.failed == 0
        assert server._account.buffers.total == 0
        assert not server._account.buffers._held


async def test_a_payload_that_has_left_counts_no_more_whatever_its_last_piece() -> None:
    """A stream is given 64 KiB at once; what is left then is less than what is counted."""
    async with memory_pair(compression=None) as (client, server):
        buffers = server._link.account.buffers
        server.send_nowait(b"x" * (2**17 + 1000))
        assert buffers.total > 2**17
        await client.receive()
        await until(lambda: server.buffered_amount == 0)
        assert buffers.total == 0
        assert not buffers._held


async def test_what_waits_for_a_peer_that_does_not_read_counts_as_buffered() -> None:
    ends: list[BaseException] = []

    async def talk(ws: creche.WebSocket) -> None:
        try:
            while True:
                ws.send_nowait(b"x" * 2**24)
                await ws.flush()
        except creche.ConnectionClosed as exc:
            ends.append(exc)
            raise

    async with creche.serving(talk, "127.0.0.1", max_buffered_bytes=2**20) as server:
        async with raw_client(server.url):
            await until(lambda: ends)
    assert "max_buffered_bytes" in str(ends[0])


async def test_running_out_of_descriptors_hurts_nobody_who_is_connected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(creche.serving(echo, "127.0.0.1"))
        ws = await stack.enter_async_context(creche.connect(server.url))
        sockets = [stack.enter_context(socket.socket()) for _ in range(20)]
        for sock in sockets:
            sock.settimeout(5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (count_descriptors() + 5, hard))
        try:
            for sock in sockets:
                sock.connect(server.addresses[0])
            await until(lambda: "cannot accept connections for now" in caplog.text)
            for number in range(100):
                await ws.send(str(number))
                assert await ws.receive() == str(number)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        # As soon as there are descriptors again, everybody is served.
        await until(lambda: server.stats.accepted == 21)
        assert server.stats.failed == 0


async def test_port_scans_are_logged_at_debug_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "creche")
    async with creche.serving(echo, "127.0.0.1") as server:
        for number, (sent, reset) in enumerate(
            [
                (b"", False),
                (b"", True),
                (b"\0\1\2", True),
                (b"GET / HT", True),
                (b"x" * 20_000, True),
            ]
        ):
            stream = await anyio.connect_tcp(*server.addresses[0])
            if sent:
                await stream.send(sent)
            if reset:
                sock = stream.extra(SocketAttribute.raw_socket)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.aclose()
            await until(lambda number=number: server.stats.refused == number + 1)  # type: ignore[misc]
    assert {record.levelname for record in said(caplog)} == {"DEBUG"}


# Lengths and inflated data

# 2**63 - 1 bytes, masked and not.
LONGEST = {
    Side.CLIENT: b"\x81\xff\x7f" + b"\xff" * 7 + b"mask" + b"x" * 20,
    Side.SERVER: b"\x81\x7f\x7f" + b"\xff" * 7 + b"x" * 20,
}


@pytest.mark.parametrize("before", [True, False], ids=["after a message", "first"])
@pytest.mark.parametrize("max_size", [1000, 2**20])
async def test_a_frame_of_2_to_the_63_bytes_ends_a_server_s_connection_with_1009(
    max_size: int, before: bool
) -> None:
    async with creche.serving(echo, "127.0.0.1", max_size=max_size) as server:
        async with raw_client(server.url) as peer:
            small = peer.frame(TEXT, b"small") if before else b""
            await peer.stream.send(small + LONGEST[Side.CLIENT])
            if before:
                assert await peer.receive() == (TEXT, b"small")
            opcode, payload = await peer.receive()
            assert (opcode, payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))
        async with creche.connect(server.url) as ws:
            await ws.send("alive")
            assert await ws.receive() == "alive"


@pytest.mark.parametrize("before", [True, False], ids=["after a message", "first"])
async def test_a_frame_of_2_to_the_63_bytes_ends_a_client_s_connection_with_1009(
    before: bool,
) -> None:
    async with raw_server() as (ws, peer):
        small = peer.frame(TEXT, b"small") if before else b""
        await peer.stream.send(small + LONGEST[Side.SERVER])
        if before:
            assert await ws.receive() == "small"
        with pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.receive()
        assert isinstance(caught.value.__cause__, creche.PayloadTooBig)
        opcode, payload = await peer.receive()
        assert (opcode, payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))
        await peer.stream.aclose()


@pytest.mark.parametrize("receiving", [True, False])
async def test_of_a_message_beyond_max_size_no_more_is_kept_than_lay_in_one_read(
    receiving: bool,
) -> None:
    async with flooded(max_size=1000) as (ws, peer), anyio.create_task_group() as tg:

        async def receive() -> None:
            with pytest.raises(creche.ConnectionClosedError, match="more than max_size=1000 bytes"):
                await ws.receive()

        if receiving:
            tg.start_soon(receive)
            await settle()
        peer.stream._peer.clogged_after = 2**16
        tg.start_soon(peer.stream.send, frames(1, BINARY, b"x" * 2**20))
        await settle()
        assert ws._link.connection.kept() <= (0 if receiving else 2**17 + 2**12)
        if receiving:
            assert (await peer.receive())[1][:2] == (1009).to_bytes(2, "big")
        tg.cancel_scope.cancel()


async def test_a_message_beyond_max_size_waits_for_who_takes_it_bit_by_bit() -> None:
    async with flooded(max_size=1000) as (ws, peer), anyio.create_task_group() as tg:
        data = frames(1, TEXT, b"meta") + frames(1, BINARY, b"x" * 2**20) + frames(1, TEXT, b"y")
        tg.start_soon(peer.stream.send, data)
        assert await ws.receive() == "meta"
        await settle()
        async with ws.receive_stream() as stream:
            assert sum([len(part) async for part in stream]) == 2**20
        assert await ws.receive() == "y"


async def test_a_receive_stream_that_is_cancelled_before_it_has_anything_lifts_no_limit() -> None:
    async with flooded(max_size=1000) as (ws, peer):
        data = frames(1, BINARY, b"x" * 2**16)
        await peer.stream.send(data[:14])
        await settle()
        async with cancelled_once(lambda: not ws._link.connection.held):
            await ws.receive_stream().__aenter__()
        async with anyio.create_task_group() as tg:
            tg.start_soon(peer.stream.send, data[14:])
            with pytest.raises(creche.ConnectionClosedError, match="more than max_size=1000 bytes"):
                await ws.receive()


async def test_empty_final_blocks_of_deflate_let_others_have_their_turn() -> None:
    turns = [0]
    offering = [creche.PerMessageDeflate()]
    async with (
        flooded(offering=offering) as (ws, peer),
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(count_turns, turns)
        await peer.stream.send(frames(1, BINARY | Extension.RSV1, b"\x03\x00" * 20_000))
        await until(lambda: ws._link.connection.inbox.messages)
        assert turns[0] > 100
        assert await ws.receive() == b""
        tg.cancel_scope.cancel()
