"""codec(): a stream of objects over a WebSocket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from anyio.abc import ObjectStream

from creche.connection.endpoint import Message
from creche.connection.websocket import WebSocket

T = TypeVar("T")


def codec(
    ws: WebSocket,
    encode: Callable[[T], Message],
    decode: Callable[[str | bytes], T],
    *,
    text: bool | None = None,
) -> ObjectStream[T]:
    """A stream of objects, each of which is a message: codec(ws, json.dumps, json.loads).

    What `encode` and `decode` raise is raised by `send`, which has sent nothing then, and by
    `receive`, which has taken the message. Close the WebSocket or the stream: it is the same.

    Args:
        ws: the WebSocket.
        encode: makes a message of an object.
        decode: makes an object of a message.
        text: whether messages are sent as text, whatever their type; None if that is for the type
            to say. For a library whose JSON is bytes.
    """
    return _Codec(ws, encode, decode, text)


class _Codec(ObjectStream[T], Generic[T]):
    def __init__(
        self,
        ws: WebSocket,
        encode: Callable[[T], Message],
        decode: Callable[[str | bytes], T],
        text: bool | None,
    ) -> None:
        self._ws = ws
        self._encode = encode
        self._decode = decode
        self._text = text

    async def send(self, item: T) -> None:
        await self._ws.send(self._encode(item), text=self._text)

    async def receive(self) -> T:
        return self._decode(await self._ws.receive())

    async def send_eof(self) -> None:
        await self._ws.send_eof()

    async def aclose(self) -> None:
        await self._ws.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._ws.extra_attributes
