"""Messages that are sent and received bit by bit (RFC 6455 5.4)."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream

from creche.connection.endpoint import Endpoint
from creche.exceptions import PeerHasClosed
from creche.protocol.closing import Close
from creche.protocol.frames import BINARY, CONTINUATION, TEXT
from creche.protocol.messages import encode_message

Chunk = str | bytes | bytearray | memoryview


class SendStream(ObjectSendStream[Chunk]):
    """A message that is sent bit by bit; WebSocket.send_stream() makes it.

    Leaving its `async with` finishes the message. Leaving it by an exception, a cancellation among
    them, closes the connection with 1011 if some of the message was sent: the peer never takes a
    part for the whole.
    """

    def __init__(self, endpoint: Endpoint, text: bool) -> None:
        self._endpoint = endpoint  # a connection that nobody holds is closed
        self._link = endpoint._link
        self._text = text
        self._opcode = TEXT if text else BINARY
        self._used = self._open = False

    async def __aenter__(self) -> Self:
        """Wait until the message may begin.

        Raises:
            ConnectionClosed: as WebSocket.send.
            RuntimeError: it has been entered before.
        """
        if self._used:
            raise RuntimeError("a SendStream is one message; send_stream() makes another")
        self._used = True
        try:
            await self._link.begin_message()
        except BaseException:
            self._used = False
            raise
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open:
            self._end(exc is None)

    async def send(self, item: Chunk) -> None:
        """Send some of the message: a str if it is text, bytes-like otherwise.

        It waits for room in the outbox. Cancelled means that this bit was not sent.

        Raises:
            TypeError: `item` is not of the message's type.
            ConnectionClosed: as WebSocket.send.
            anyio.ClosedResourceError: the message is finished, or was never begun.
        """
        if isinstance(item, str) is not self._text:
            kind = "str" if self._text else "bytes-like"
            raise TypeError(f"a chunk must be {kind}, not {type(item).__name__}")
        payload = encode_message(item)
        await self._link.wait_for_room(within=True)
        if not self._open:
            raise anyio.ClosedResourceError
        self._link.send_part(self._opcode, payload, False)
        self._opcode = CONTINUATION

    async def aclose(self) -> None:
        """Finish the message."""
        if self._open:
            self._end(True)

    def _end(self, whole: bool) -> None:
        self._open = False
        link = self._link
        try:
            if whole:
                link.check_sendable()
                link.send_part(self._opcode, b"", True)
            elif self._opcode == CONTINUATION and link.is_open():
                link.begin_close(Close(1011, "a message was not finished"))
        finally:
            link.end_message()


class ReceiveStream(ObjectReceiveStream[str | bytes]):
    """A message that is received bit by bit; WebSocket.receive_stream() makes it.

    Entering its `async with` waits for the message to begin. Iterating gives it as it arrives, str
    or bytes, text cut between characters. Leaving early drops the rest of the message.

    Attributes:
        text: whether it is text.
    """

    text: bool

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._link = endpoint._link
        self._first: str | bytes = b""
        self._used = self._open = False
        self._finished = False

    async def __aenter__(self) -> Self:
        """Wait for the message.

        Raises:
            ConnectionClosed, anyio.BusyResourceError: as WebSocket.receive.
            RuntimeError: it has been entered before.
        """
        if self._used:
            raise RuntimeError("a ReceiveStream is one message; receive_stream() makes another")
        self._link.begin_parts()
        self._used = True
        try:
            self._first, self._finished = await self._link.next_message(part=True)
        except BaseException:
            self._used = False
            self._link.end_parts(False, begun=False)
            raise
        self._open = True
        self.text = isinstance(self._first, str)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def receive(self) -> str | bytes:
        """The next bit of the message; cancelling it loses nothing.

        Raises:
            anyio.EndOfStream: the message is finished.
            anyio.ClosedResourceError: the stream is closed, or was never entered.
            ConnectionClosed: the connection has ended in the middle of it.
        """
        if not self._open:
            raise anyio.ClosedResourceError
        if self._first:
            chunk, self._first = self._first, b""
            return chunk
        if self._finished:
            raise anyio.EndOfStream
        piece: str | bytes
        try:
            piece, self._finished = await self._link.next_message(part=True)
        except anyio.EndOfStream:  # the peer has closed; but that is not the message's end
            raise self._link.ending(PeerHasClosed) from None
        if not piece:  # only the last one may be empty
            raise anyio.EndOfStream
        return piece

    async def aclose(self) -> None:
        """Drop the rest of the message."""
        if self._open:
            self._open = False
            self._link.end_parts(self._finished)
