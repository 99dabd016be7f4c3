# cython: annotation_typing=False
"""Endpoint: the part of a WebSocket that every message goes through."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Literal, overload

import anyio

from creche.connection.link import Link
from creche.protocol.prepared import PreparedMessage

Message = str | bytes | bytearray | memoryview | PreparedMessage


class Endpoint:
    """Whole messages, sent and received. It stands apart from WebSocket to be compiled."""

    __slots__ = ("_link",)

    _link: Link

    @overload
    async def receive(self, *, decode: None = None) -> str | bytes: ...

    @overload
    async def receive(self, *, decode: Literal[True]) -> str: ...

    @overload
    async def receive(self, *, decode: Literal[False]) -> bytes: ...

    async def receive(self, *, decode: bool | None = None) -> str | bytes:
        """The next message: str if it is text, bytes if it is binary.

        Cancelling it loses nothing. `async for message in ws` receives until the peer closes.

        Args:
            decode: True for a str and False for bytes, whichever was sent. Text has been checked to
                be UTF-8 either way.

        Raises:
            UnicodeDecodeError: `decode` is True, and a binary message is not UTF-8.
            ConnectionClosedOK: the peer has closed, and every message before was received.
            ConnectionClosedError: the connection was lost, or the peer broke the protocol.
            ConnectionAlreadyClosed: we have closed.
            anyio.BusyResourceError: another task is receiving.
        """
        message = self._link.take()
        if message is None:
            message = await self._link.next_message()
        if decode is None:
            return message
        if decode:
            return message if isinstance(message, str) else message.decode()
        return message.encode() if isinstance(message, str) else message

    def __anext__(self) -> Coroutine[Any, Any, str | bytes]:
        return self._link.next_message(True)

    async def send(
        self, message: Message, *, text: bool | None = None, compress: bool = True
    ) -> None:
        """Send a message: str as text, bytes-like as binary (RFC 6455 5.6).

        It waits for room in the outbox and then commits the message whole. Cancelled means not
        sent; returned means committed, in order, but not yet delivered.

        Args:
            message: the message; a PreparedMessage is sent as what it holds.
            text: whether to send it as text, whatever its type; None if that is for its type to
                say. For bytes that are UTF-8 already, as JSON libraries make them.
            compress: False to send this message uncompressed, and unchanged by other extensions.

        Raises:
            TypeError: `message` is neither str nor bytes-like, or `text` is given beside a
                PreparedMessage.
            ValueError: it is text that is not UTF-8.
            ConnectionClosedOK: the peer has closed.
            ConnectionClosedError: the connection was lost.
            ConnectionAlreadyClosed: we have closed.
        """
        link = self._link
        if not link.try_send(message, text, compress):
            await link.wait_for_room()
            link.send(message, text, compress)

    def send_nowait(
        self, message: Message, *, text: bool | None = None, compress: bool = True
    ) -> None:
        """Send a message if there is room for it in the outbox. Arguments are those of `send`.

        Raises:
            anyio.WouldBlock: there is none.
            TypeError, ValueError, ConnectionClosed: as `send`.
        """
        link = self._link
        link.check_sendable()
        if not link.has_room():
            raise anyio.WouldBlock
        link.send(message, text, compress)
