"""One message for many connections, encoded once for each kind of them."""

from __future__ import annotations

import zlib
from contextlib import AsyncExitStack
from typing import Any

import pytest

import creche
from creche.protocol.deflate import Deflate
from creche.protocol.frames import BINARY, TEXT
from creche.protocol.prepared import PreparedMessage
from creche.testing import memory_pair

TEXTS = [f"message {n} " * 100 for n in range(3)]


def count_compressors(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Notes the arguments of each compressor that is made from now on."""
    made: list[tuple[int, ...]] = []
    make: Any = zlib.compressobj

    class Noting:
        def __getattr__(self, name: str) -> Any:
            return getattr(zlib, name)

        def compressobj(self, *args: int) -> Any:
            made.append(args)
            return make(*args)

    monkeypatch.setattr("creche.protocol.deflate.zlib", Noting())
    return made


async def pairs(
    stack: AsyncExitStack, count: int, **options: Any
) -> list[tuple[creche.WebSocket, creche.WebSocket]]:
    return [await stack.enter_async_context(memory_pair(**options)) for _ in range(count)]


@pytest.mark.anyio
@pytest.mark.feature("prepared")
async def test_a_broadcast_is_compressed_once_for_all_that_compress_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncExitStack() as stack:
        everyone = await pairs(stack, 3)
        everyone += await pairs(
            stack, 2, extensions=[creche.PerMessageDeflate(server_max_window_bits=10)]
        )
        everyone += await pairs(stack, 2, compression=None)
        made = count_compressors(monkeypatch)
        creche.broadcast([server for _, server in everyone], TEXTS[0])
        assert sorted(args[2] for args in made) == [-12, -10]
        for client, _ in everyone:
            assert await client.receive() == TEXTS[0]


@pytest.mark.anyio
@pytest.mark.parametrize("side", ["client", "server"])
async def test_what_follows_a_broadcast_is_compressed_anew(side: str) -> None:
    async with memory_pair() as (client, server):
        ours, theirs = (client, server) if side == "client" else (server, client)
        for text in TEXTS:
            await ours.send(text)
            creche.broadcast([ours], text * 50)  # moves the peer's window past all before
            await ours.send(text)
            assert [await theirs.receive() for _ in range(3)] == [text, text * 50, text]


@pytest.mark.anyio
@pytest.mark.feature("prepared")
async def test_a_message_can_be_kept_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PreparedMessage(TEXTS[0])
    plain = PreparedMessage(TEXTS[1].encode(), text=True, compress=False)
    binary = PreparedMessage(bytearray(b"\xff" * 200))
    assert repr(text) == f"<PreparedMessage of {len(TEXTS[0])} bytes>"
    async with memory_pair() as (client, server):
        made = count_compressors(monkeypatch)
        for _ in range(2):
            await server.send(text)
            server.send_nowait(plain)
            await server.send(binary)
            await server.send(binary, compress=False)
            assert await client.receive() == TEXTS[0]
            assert await client.receive() == TEXTS[1]
            assert await client.receive() == b"\xff" * 200
            assert await client.receive() == b"\xff" * 200
        assert len(made) == 2  # of text and of binary


@pytest.mark.anyio
async def test_a_small_message_is_not_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_pair() as (client, server):
        made = count_compressors(monkeypatch)
        creche.broadcast([client, server], "small")
        assert await client.receive() == "small"
        assert await server.receive() == "small"
    assert made == []


@pytest.mark.anyio
async def test_it_says_itself_whether_it_is_text() -> None:
    message = PreparedMessage("x")
    async with memory_pair() as (client, server):
        with pytest.raises(TypeError, match="text: a PreparedMessage says itself"):
            await server.send(message, text=False)
        with pytest.raises(TypeError, match="text: a PreparedMessage says itself"):
            creche.broadcast([server], message, text=True)
        await server.send(message)
        assert await client.receive() == "x"


def test_wrong_use_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="message must be str or bytes-like, not int"):
        PreparedMessage(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="utf-8"):
        PreparedMessage(b"\xff", text=True)


def test_what_can_change_is_copied() -> None:
    data = bytearray(b"abc")
    message = PreparedMessage(data)
    data[:] = b"xyz"
    assert message.payload == b"abc"
    assert message.opcode == BINARY


class Reverse(creche.Extension):
    """An extension that shares nothing."""

    reserved_bits = creche.Extension.RSV2
    _data = b""

    def encode(self, payload: bytes | memoryview) -> bytes:
        return bytes(payload)[::-1]

    def begin(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data = data[::-1]

    def finish(self) -> None:
        pass

    def read(self, limit: int) -> bytes:
        data, self._data = self._data, b""
        return data


class ReverseFactory(creche.ExtensionFactory):
    name = "reverse"

    def offers(self) -> list[creche.Parameters]:
        return [[]]

    def agree(self, parameters: creche.Parameters) -> Reverse:
        return Reverse()

    def choose(self, parameters: creche.Parameters) -> tuple[creche.Parameters, Reverse]:
        return [], Reverse()


@pytest.mark.anyio
@pytest.mark.feature("extensions")
async def test_an_extension_that_shares_nothing_encodes_for_itself() -> None:
    async with memory_pair(extensions=[ReverseFactory()], compression=None) as (client, server):
        creche.broadcast([client, server], "abc")
        assert await client.receive() == "abc"
        assert await server.receive() == "abc"


def test_what_one_extension_does_not_share_none_can() -> None:
    deflate = Deflate(12, True, 12, True, 6, 5, 0)
    message = PreparedMessage("abc")
    assert message.encode_for([deflate, Reverse()]) is None
    encoded = message.encode_for([deflate])
    assert encoded is not None
    assert encoded[0] == TEXT | 0x40
    assert message.encode_for([deflate]) is encoded
    with pytest.raises(NotImplementedError):
        Reverse().encode_alone(b"")
