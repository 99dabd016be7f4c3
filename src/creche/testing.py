"""For tests of applications: connections without a socket."""

from __future__ import annotations

from typing import Unpack

import anyio
from anyio.abc import ByteStream

from creche.connection.pending import AwaitablePending, leave
from creche.connection.websocket import WebSocket
from creche.engine.current import current_engine
from creche.handshake.client import ClientHandshake
from creche.handshake.server import ServerHandshake
from creche.handshake.uri import parse_uri
from creche.options.declared import ConnectionOptions
from creche.options.resolving import client_options
from creche.protocol.states import Side
from creche.transports.streams import StreamTransport

__all__ = ["MemoryByteStream", "memory_byte_pair", "memory_pair"]


class memory_pair(AwaitablePending[tuple[WebSocket, WebSocket]]):
    """Two connected WebSockets, (client, server), as an async context manager, or by awaiting it.

    The server's is closed first when it is left.

    Args:
        uri: what the client has asked for.
        clogged_after: bytes that either direction holds until the other side reads; None for any
            number.
        options: see ConnectionOptions; they hold for both.

    Raises:
        TypeError, ValueError: an option is not what it should be.
    """

    def __init__(
        self,
        uri: str = "ws://localhost/",
        *,
        clogged_after: int | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        self._uri = parse_uri(uri)
        self._clogged_after = clogged_after
        self._options = client_options(options)

    async def _open(self) -> tuple[WebSocket, WebSocket]:
        settings = self._options
        asking = ClientHandshake(self._uri, extensions=settings["extensions"])
        answering = ServerHandshake(extensions=settings["extensions"])
        request = answering.receive_data(asking.request_bytes())
        assert request is not None
        response = answering.accept(request)
        asking.receive_data(answering.respond(response))
        streams = memory_byte_pair(clogged_after=self._clogged_after)
        extensions = asking.extensions, answering.extensions
        client, server = (
            WebSocket(
                StreamTransport(stream),
                current_engine().clients,
                side,
                settings,
                request=request,
                response=response,
                extensions=agreed,
            )
            for side, stream, agreed in zip(Side, streams, extensions, strict=True)
        )
        return client, server

    async def _close(self, opened: tuple[WebSocket, WebSocket], exc: BaseException | None) -> None:
        client, server = opened
        try:
            await leave(server, exc)
        finally:
            await leave(client, exc)


class MemoryByteStream(ByteStream):
    """One end of a byte stream in memory; memory_byte_pair() makes two.

    Attributes:
        clogged_after: bytes that may be under way from here until the peer receives; None for
            any number. It may be changed.
    """

    def __init__(self, clogged_after: int | None) -> None:
        self._clogged_after = clogged_after
        self._arrived = bytearray()  # what the peer has sent and we have not received
        self._ended = False  # whether the peer sends no more
        self._closed = False
        self._changed = anyio.Event()
        self._peer: MemoryByteStream = self

    @property
    def clogged_after(self) -> int | None:
        return self._clogged_after

    @clogged_after.setter
    def clogged_after(self, size: int | None) -> None:
        self._clogged_after = size
        self._wake()  # there may be room now

    def join(self, peer: MemoryByteStream) -> None:
        """Make `peer` the other end."""
        self._peer = peer

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._arrived:
                data = bytes(self._arrived[:max_bytes])
                del self._arrived[:max_bytes]
                self._peer._wake()
                return data
            if self._ended:
                raise anyio.EndOfStream
            await self._changed.wait()

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        view = memoryview(item)
        while view:
            if self._closed:
                raise anyio.ClosedResourceError
            peer = self._peer
            if peer._closed:
                raise anyio.BrokenResourceError
            room = len(view)
            if self._clogged_after is not None:
                room = min(room, self._clogged_after - len(peer._arrived))
            if room > 0:
                peer._arrived += view[:room]
                view = view[room:]
                peer._wake()
            else:
                await self._changed.wait()

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._peer._ended = True
        self._peer._wake()

    async def aclose(self) -> None:
        self._closed = True
        self._peer._ended = True
        self._wake()
        self._peer._wake()
        await anyio.lowlevel.checkpoint()


def memory_byte_pair(
    *, clogged_after: int | None = None
) -> tuple[MemoryByteStream, MemoryByteStream]:
    """Two ends of a byte stream in memory.

    Args:
        clogged_after: bytes that either direction holds until the other end receives; None for
            any number.

    Raises:
        ValueError: `clogged_after` is negative.
    """
    if clogged_after is not None and clogged_after < 0:
        raise ValueError(f"clogged_after must not be negative, not {clogged_after}")
    first, second = MemoryByteStream(clogged_after), MemoryByteStream(clogged_after)
    first.join(second)
    second.join(first)
    return first, second
