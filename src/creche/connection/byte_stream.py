"""as_byte_stream(): a WebSocket as a stream of bytes, for what runs through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream

from creche.connection.websocket import WebSocket

# No message is larger, whatever is sent at once: every peer takes so much.
_PIECE = 2**16


def as_byte_stream(ws: WebSocket, *, compress: bool = False) -> ByteStream:
    """A WebSocket as an anyio.abc.ByteStream over its binary messages.

    TLS, SSH or another WebSocket can run through it. Where messages begin and end is lost.
    WebSocket knows no half-closed connection: after `send_eof` what the peer has sent already can
    still be received, but it sends no more.

    Args:
        ws: the connection, of which nobody else sends or receives. Closing the stream closes it.
        compress: whether to compress; what is encrypted cannot be.
    """
    return _WebSocketStream(ws, compress)


class _WebSocketStream(ByteStream):
    def __init__(self, ws: WebSocket, compress: bool) -> None:
        self._ws = ws
        self._compress = compress
        self._left = memoryview(b"")  # of the last message

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Some bytes.

        Raises:
            ConnectionClosed: as WebSocket.receive: EndOfStream or BrokenResourceError of AnyIO.
            anyio.BrokenResourceError: the peer sent text; it is closed with 1003.
            ValueError: `max_bytes` is not positive.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        while not self._left:
            message = await self._ws.receive()
            if isinstance(message, str):
                await self._ws.aclose(1003, "this is a stream of bytes")
                raise anyio.BrokenResourceError("the peer sent text on a stream of bytes")
            self._left = memoryview(message)
        data = bytes(self._left[:max_bytes])
        self._left = self._left[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        """Send bytes, in messages of 64 KiB at most; cancelled, some of them may have been sent."""
        with memoryview(item) as view:
            for start in range(0, len(view), _PIECE):
                with view[start : start + _PIECE] as piece:
                    await self._ws.send(piece, compress=self._compress)

    async def send_eof(self) -> None:
        """Close our direction."""
        await self._ws.send_eof()

    async def aclose(self) -> None:
        """Close the WebSocket."""
        await self._ws.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._ws.extra_attributes
