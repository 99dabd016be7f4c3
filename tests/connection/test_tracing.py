"""What is told of connections: to a trace callback, and to the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import creche
from creche.connection.tracing import describe_frame
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT
from creche.testing import memory_pair
from support import echo, until


@pytest.mark.parametrize(
    ("opcode", "length", "fin", "payload", "line"),
    [
        (TEXT, 5, True, b"hello", "text hello [5 bytes]"),
        (TEXT, 0, True, b"", "text [0 bytes]"),
        (TEXT, 900, True, b"x" * 64, f"text {'x' * 64}... [900 bytes]"),
        (TEXT, 4, True, "€x".encode(), "text €x [4 bytes]"),
        (TEXT, 9, True, "€".encode()[:2], "text \\xe2\\x82... [9 bytes]"),
        (TEXT, 8, True, b"a\nb\x1b[2Jc", "text a\\nb\\x1b[2Jc [8 bytes]"),
        (TEXT, 2, True, "\x9b".encode(), "text \\x9b [2 bytes]"),
        (TEXT, 3, True, "\u2028".encode(), "text \\u2028 [3 bytes]"),
        (BINARY, 2, True, b"\x00\xff", "binary 00 ff [2 bytes]"),
        (CONTINUATION, 2, False, b"ab", "continuation ab [2 bytes, to be continued]"),
        (TEXT | 0x40, 2, True, b"\xca\x00", "text (changed by an extension) [2 bytes]"),
        (PING, 1, True, b"p", "ping p [1 bytes]"),
        (CLOSE, 0, True, b"", "close [0 bytes]"),
        (CLOSE, 2, True, b"\x03\xe8", "close 1000 [2 bytes]"),
        (CLOSE, 5, True, b"\x03\xe8bye", "close 1000 bye [5 bytes]"),
    ],
)
def test_a_frame_in_a_line(opcode: int, length: int, fin: bool, payload: bytes, line: str) -> None:
    assert describe_frame(opcode, length, fin, payload) == line


class Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, info: dict[str, Any]) -> None:
        self.seen.append((name, info))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.seen]


LIFE = [
    "connection.open.started",
    "connection.open.complete",
    "frame.received",
    "frame.sent",
    "connection.close.started",
    "connection.close.complete",
]


@pytest.mark.anyio
@pytest.mark.feature("trace")
async def test_the_life_of_a_connection_is_told() -> None:
    client, server_side = Events(), Events()
    async with creche.serving(echo, "127.0.0.1", trace=server_side) as server:
        async with creche.connect(server.url, trace=client) as ws:
            await ws.send("x" * 200)
            await ws.receive()
        await until(lambda: "connection.close.complete" in server_side.names)
    for events in (client, server_side):
        assert sorted(set(events.names)) == sorted(LIFE)
        firsts = [events.names.index(name) for name in LIFE]
        assert firsts[:2] == [0, 1]
        assert events.names[-1] == "connection.close.complete"
    assert client.seen[0][1] == {"host": "127.0.0.1", "port": server.addresses[0][1]}
    assert client.seen[1][1] == {"websocket": ws}
    frames = [info for name, info in client.seen if name.startswith("frame")]
    assert [info["opcode"] for info in frames] == ["text", "text", "close", "close"]
    assert [info["compressed"] for info in frames] == [True, True, False, False]
    assert frames[0]["length"] < 200
    assert all(info["fin"] and info["websocket"] is ws for info in frames)


@pytest.mark.anyio
async def test_an_opening_that_fails_is_told() -> None:
    client, server_side = Events(), Events()
    refuse = creche.Response(403)
    async with creche.serving(
        echo, "127.0.0.1", trace=server_side, process_request=lambda _: refuse
    ) as server:
        with pytest.raises(creche.InvalidStatus) as caught:
            async with creche.connect(server.url, trace=client):
                pass
        await until(lambda: len(server_side.seen) == 2)
    assert client.names == ["connection.open.started", "connection.open.failed"]
    assert client.seen[1][1]["exception"] is caught.value
    assert server_side.names == ["connection.open.started", "connection.open.failed"]
    assert str(server_side.seen[1][1]["exception"]).startswith("403")


@pytest.mark.anyio
async def test_a_trace_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def trace(name: str, info: dict[str, Any]) -> None:
        raise RuntimeError(name)

    async with memory_pair(trace=trace) as (client, server):
        await client.send("x")
        assert await server.receive() == "x"
    assert "trace raised at frame.received" in caplog.text


@pytest.mark.anyio
@pytest.mark.feature("logging")
async def test_debug_shows_frames_and_whose_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="creche")
    large = b"y" * 100_000
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url, compression=None) as ws:
            await ws.send("a\nb")
            await ws.receive()
            await ws.send(large)
            await ws.receive()
            await ws.ping("p")
            async with ws.send_stream(text=True) as stream:
                await stream.send("c")
                await stream.send("d")
            await ws.receive()
        await until(lambda: not server.stats.open)
    start = " ".join(["79"] * 64)
    ours = [r for r in caplog.records if r.name == "creche.client"]
    assert [r.message.partition("] ")[2] for r in ours] == [
        "> text a\\nb [3 bytes]",
        "< text a\\nb [3 bytes]",
        f"> binary {start}... [100000 bytes]",
        f"< binary {start}... [100000 bytes]",
        "> ping p [1 bytes]",
        "< pong p [1 bytes]",
        "> text c [1 bytes, to be continued]",
        "> continuation d [1 bytes, to be continued]",
        "> continuation [0 bytes]",
        "< text cd [2 bytes]",
        "> close 1000 [2 bytes]",
        "< close 1000 [2 bytes]",
    ]
    for record in ours:
        assert record.websocket is ws  # type: ignore[attr-defined]
        assert record.connection_id == str(ws.id)  # type: ignore[attr-defined]
        assert record.peer == server.addresses[0]  # type: ignore[attr-defined]
        assert record.message.startswith(f"[{ws.id}] ")
    theirs = [r for r in caplog.records if r.name == "creche.server" and "text a" in r.message]
    assert [r.peer for r in theirs] == ["127.0.0.1"] * 2  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_an_observer_keeps_no_connection_alive() -> None:
    events = Events()
    async with memory_pair(trace=events) as (client, _):
        observe = client._link.connection.observer
        assert observe is not None
    events.seen.clear()
    del client, _
    observe(True, TEXT, 1, True, b"x")
    assert events.seen == []


@pytest.mark.anyio
async def test_nobody_observes_where_nobody_wants_to_know() -> None:
    async with memory_pair() as (client, server):
        assert client._link.connection.observer is None
        assert server._link.connection.observer is None


@pytest.mark.anyio
async def test_what_a_trace_callback_sends_follows_what_it_was_told_of() -> None:
    nested = 0

    def trace(event: str, info: dict[str, Any]) -> None:
        nonlocal nested
        if event == "frame.sent" and info["opcode"] == "text" and nested < 3:
            nested += 1
            info["websocket"].send_nowait(f"nested {nested} " * 50)

    for size in (2, 50_000):
        nested = 0
        async with memory_pair(trace=trace) as (client, server):
            for sender, receiver in ((client, server), (server, client)):
                nested = 0
                await sender.send("o" * size)
                expected = ["o" * size, *[f"nested {n} " * 50 for n in (1, 2, 3)]]
                assert [await receiver.receive() for _ in range(4)] == expected
