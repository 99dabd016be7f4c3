"""Compression between real peers (RFC 7692)."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import websockets
import wsproto
from aiohttp import ClientSession, WSMsgType, web
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.sync.client import connect as connect_websockets
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

import creche
from creche.handshake.client import ClientHandshake
from creche.handshake.uri import parse_uri
from creche.protocol.connection import Connection
from creche.protocol.frames import BINARY, TEXT, append_frame
from creche.protocol.masking import new_key
from creche.protocol.states import Side
from creche.testing import memory_pair
from peers import aiohttp_server, in_thread, talk_by_aiohttp, websockets_server
from support import REQUEST, connect_socket, echo, peak_memory

pytestmark = pytest.mark.anyio

MESSAGES: list[str | bytes] = ["", "x" * 200, "é☃🐍" * 30_000, b"", b"\x00\xff" * 100_000]

PARAMETERS = [
    {
        "server_no_context_takeover": server_alone,
        "client_no_context_takeover": client_alone,
        "server_max_window_bits": server_bits,
        "client_max_window_bits": client_bits,
    }
    for server_alone, client_alone in itertools.product([False, True], repeat=2)
    for server_bits, client_bits in itertools.product([None, 9, 15], repeat=2)
]


# Real peers


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
async def test_our_client_and_the_server_of_websockets(parameters: dict[str, Any]) -> None:
    async def echo_back(ws: websockets.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    theirs = ServerPerMessageDeflateFactory(**parameters)
    ours = creche.PerMessageDeflate(**parameters, threshold=0)
    with in_thread(websockets_server(echo_back, extensions=[theirs])) as port:
        async with creche.connect(f"ws://127.0.0.1:{port}/", extensions=[ours]) as ws:
            assert "Sec-WebSocket-Extensions" in ws.response.headers
            for message in MESSAGES * 2:
                await ws.send(message)
                assert await ws.receive() == message


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
async def test_the_client_of_websockets_and_our_server(parameters: dict[str, Any]) -> None:
    theirs = ClientPerMessageDeflateFactory(**parameters)
    ours = creche.PerMessageDeflate(**parameters, threshold=0)

    def talk(url: str) -> None:
        with connect_websockets(url, extensions=[theirs], compression=None) as ws:
            assert ws.protocol.extensions
            for message in MESSAGES * 2:
                ws.send(message)
                assert ws.recv() == message
            ws.send(["frag", "men", "ts"])
            assert ws.recv() == "fragments"

    async with creche.serving(echo, "127.0.0.1", extensions=[ours]) as server:
        await anyio.to_thread.run_sync(talk, server.url)


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
async def test_our_client_and_the_server_of_aiohttp(parameters: dict[str, Any]) -> None:
    async def echo_back(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
            else:
                await ws.send_bytes(message.data)

    ours = creche.PerMessageDeflate(**parameters)
    with in_thread(aiohttp_server(echo_back)) as port:
        async with creche.connect(f"ws://127.0.0.1:{port}/", extensions=[ours]) as ws:
            assert "Sec-WebSocket-Extensions" in ws.response.headers
            for message in MESSAGES * 2:
                await ws.send(message)
                assert await ws.receive() == message


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize("bits", [9, 15])
async def test_the_client_of_aiohttp_and_our_server(parameters: dict[str, Any], bits: int) -> None:
    async def talk(url: str) -> None:
        async with (
            ClientSession() as session,
            session.ws_connect(url, compress=bits) as ws,
        ):
            assert ws.compress
            await talk_by_aiohttp(ws, MESSAGES * 2)

    ours = creche.PerMessageDeflate(**parameters, threshold=0)
    async with creche.serving(echo, "127.0.0.1", extensions=[ours]) as server:
        await anyio.to_thread.run_sync(asyncio.run, talk(server.url))


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
async def test_wsproto_and_our_server(parameters: dict[str, Any]) -> None:
    deflate = WsprotoDeflate(**parameters)

    def talk(port: int) -> None:
        peer = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        with connect_socket(port) as sock:
            events = peer.events()

            def next_event() -> Any:
                nonlocal events
                while (event := next(events, None)) is None:
                    peer.receive_data(sock.recv(65536))
                    events = peer.events()
                return event

            request = wsproto.events.Request(host="localhost", target="/", extensions=[deflate])
            sock.sendall(peer.send(request))
            assert isinstance(next_event(), wsproto.events.AcceptConnection)
            assert deflate.enabled()
            for message in MESSAGES * 2:
                kind: Any = wsproto.events.Message
                cut = len(message) // 2
                sock.sendall(
                    peer.send(kind(data=message[:cut], message_finished=False))
                    + peer.send(kind(data=message[cut:]))
                )
                received = message[:0]
                finished = False
                while not finished:
                    event = next_event()
                    received += event.data
                    finished = event.message_finished
                assert received == message

    async with creche.serving(echo, "127.0.0.1") as server:
        await anyio.to_thread.run_sync(talk, server.addresses[0][1])


# Our own ends


@pytest.mark.feature("deflate")
async def test_messages_are_compressed_by_default_if_they_are_worth_it() -> None:
    async with memory_pair() as (client, server):
        sizes = []
        for message in ("x" * 1000, "x" * 127):
            await client.send(message)
            await client.flush()
            sizes.append(client._link.transport.bytes_sent)
            assert await server.receive() == message
    assert sizes[0] < 100
    assert sizes[1] == sizes[0] + 4 + 4 + 127


@pytest.mark.feature("uncompressed")
async def test_one_message_may_be_sent_uncompressed() -> None:
    async with memory_pair() as (client, server):
        await client.send("x" * 1000, compress=False)
        await client.flush()
        assert client._link.transport.bytes_sent > 1000
        client.send_nowait(b"x" * 1000, compress=False)
        assert [await server.receive() for _ in range(2)] == ["x" * 1000, b"x" * 1000]


async def test_compression_can_be_turned_off_by_either_end() -> None:
    async with creche.serving(echo, "127.0.0.1", compression=None) as server:
        async with creche.connect(server.url) as ws:
            assert "Sec-WebSocket-Extensions" in ws.request.headers
            assert "Sec-WebSocket-Extensions" not in ws.response.headers
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url, compression=None) as ws:
            assert "Sec-WebSocket-Extensions" not in ws.request.headers


@pytest.mark.feature("compression_options")
async def test_a_deflate_of_ones_own_takes_the_place_of_the_default() -> None:
    deflate = creche.PerMessageDeflate(server_max_window_bits=10)
    async with creche.serving(echo, "127.0.0.1", extensions=[deflate]) as server:
        async with creche.connect(server.url) as ws:
            assert "server_max_window_bits=10" in ws.response.headers["Sec-WebSocket-Extensions"]
            await ws.send("x" * 1000)
            assert await ws.receive() == "x" * 1000


async def test_a_broadcast_reaches_those_who_compress_and_those_who_do_not() -> None:
    async with creche.serving(creche.discard, "127.0.0.1") as server:
        async with (
            creche.connect(server.url) as one,
            creche.connect(server.url, compression=None) as other,
        ):
            while len(server.connections) < 2:
                await anyio.lowlevel.checkpoint()
            assert creche.broadcast(server.connections, "x" * 1000) == []
            assert await one.receive() == await other.receive() == "x" * 1000


# Wrong use and wrong peers


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"compression": "gzip"}, ValueError, 'compression must be "deflate" or None'),
        ({"extensions": ["deflate"]}, TypeError, "extensions must hold ExtensionFactory objects"),
    ],
)
async def test_wrong_options_are_told(options: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        async with creche.serving(echo, "127.0.0.1", **options):
            pass


@pytest.mark.parametrize("offer", ["permessage-deflate; =", "a b", 'x; y="'])
async def test_a_malformed_offer_is_refused(offer: str) -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        async with await anyio.connect_tcp(*server.addresses[0]) as stream:
            field = f"Sec-WebSocket-Extensions: {offer}\r\n\r\n"
            await stream.send(REQUEST.removesuffix(b"\r\n") + field.encode())
            answer = await stream.receive()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"malformed" in answer


async def test_an_answer_that_was_not_asked_for_is_refused() -> None:
    def lie(request: creche.Request, response: creche.Response) -> None:
        response.headers.add("Sec-WebSocket-Extensions", "permessage-deflate")

    async with creche.serving(echo, "127.0.0.1", compression=None, process_response=lie) as server:
        with pytest.raises(creche.NegotiationError, match="not asked for"):
            async with creche.connect(server.url, compression=None):
                pass
        ours = creche.PerMessageDeflate(server_no_context_takeover=True)
        with pytest.raises(creche.NegotiationError, match="server_no_context_takeover"):
            async with creche.connect(server.url, extensions=[ours]):
                pass
    assert server.stats.failed == 0


async def test_a_broken_message_ends_the_connection_with_1007() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            outbox = ws._link.transport.outbox
            append_frame(outbox, BINARY | creche.Extension.RSV1, b"\xff" * 10, new_key())
            ws._link.transport.flush()
            with pytest.raises(creche.ConnectionClosedError) as caught:
                await ws.receive()
    assert caught.value.code == 1007


# A bomb

_SERVER = """
import sys, anyio, creche

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with creche.serving(echo, "127.0.0.1") as server:
        print(server.addresses[0][1], flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)

anyio.run(main, backend=sys.argv[1])
"""


class CompressingClient:
    """A client on a blocking socket that sends what it is told."""

    def __init__(self, port: int) -> None:
        deflate = creche.PerMessageDeflate()
        handshake = ClientHandshake(parse_uri(f"ws://localhost:{port}/"), extensions=[deflate])
        self.sock = connect_socket(port)
        self.sock.sendall(handshake.request_bytes())
        while handshake.receive_data(self.sock.recv(4096)) is None:
            pass
        self._connection = Connection(
            Side.CLIENT, bytearray(), 0, extensions=handshake.extensions, max_size=None
        )

    def send(self, opcode: int, payload: bytes) -> None:
        frame = bytearray()
        append_frame(frame, opcode, payload, new_key())
        self.sock.sendall(frame)

    def receive(self) -> str | bytes | None:
        """The next message; None when the server has closed."""
        connection = self._connection
        while (message := connection.next_message(0)) is None and not connection.ended:
            data = self.sock.recv(65536)
            if data:
                connection.receive_data(data, 0)
            else:
                connection.receive_eof()
        return message

    def __enter__(self) -> CompressingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def close(self) -> creche.Close | None:
        return self._connection.received


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the highest memory")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.feature("bomb")
def test_a_bomb_takes_no_more_memory_than_the_message_that_it_may_be(backend: str) -> None:
    compressor = zlib.compressobj(9, wbits=-12)
    block = compressor.compress(bytes(2**26)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    bomb = block * 16  # 1 GiB: each block refers to the zeros before it
    assert len(bomb) < 1.1 * 2**20
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, backend],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin:
            port = int(process.stdout.readline())
            with CompressingClient(port) as warm_up:
                warm_up.send(BINARY | creche.Extension.RSV1, block[:-4])
                warm_up.receive()
            with CompressingClient(port) as client:
                client.send(TEXT, b"x")
                assert client.receive() == "x"
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # forget the highest
                before = peak_memory(process.pid)
                client.send(BINARY | creche.Extension.RSV1, bomb)
                assert client.receive() is None
                assert client.close is not None
                assert client.close.code == 1009
                assert peak_memory(process.pid) < before + 1 + 2
