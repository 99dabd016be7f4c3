"""Handlers that decide about the opening handshake themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from creche.connection.callables import check_handler
from creche.connection.websocket import WebSocket
from creche.handshake.headers import HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.rules import check_additional
from creche.handshake.server import OURS, offered_subprotocols


class Decider(Protocol):
    """What carries the decision out."""

    async def accept(
        self, request: Request, subprotocol: str | None, headers: HeadersLike
    ) -> WebSocket: ...

    async def reject(self, response: Response) -> None: ...


class PendingRequest(Request):
    """A client's opening handshake that waits for a decision: `accept` or `reject`, once."""

    __slots__ = ("_decider",)

    def __init__(self, request: Request, decider: Decider) -> None:
        super().__init__(
            request.path,
            request.headers,
            method=request.method,
            http_version=request.http_version,
            extra_attributes=request.extra_attributes,
        )
        self._state = request.state
        self.find_client = request.find_client
        self._decider: Decider | None = decider

    @property
    def subprotocols(self) -> list[str]:
        """What the client offers, the preferred first."""
        return offered_subprotocols(self)

    async def accept(self, subprotocol: str | None = OURS, headers: HeadersLike = ()) -> WebSocket:
        """Answer 101; the connection is closed when the handler ends.

        Args:
            subprotocol: one that the client offers, or None; by default what the options say.
            headers: further header fields of the answer, not those that it sets itself.

        Raises:
            HandshakeError: the client does not ask for a WebSocket properly, or there are too many;
                it has been told. Let it out of the handler.
            OSError: the client has gone.
            RuntimeError: it was decided before.
            TypeError, ValueError: `headers` cannot be sent; it is not decided then.
        """
        if headers:
            headers = check_additional("headers", headers)
        return await self._decide().accept(self, subprotocol, headers)

    async def reject(self, status: int, headers: HeadersLike = (), body: bytes | str = b"") -> None:
        """Answer otherwise; the arguments are those of Response. It does not wait for the client.

        Raises:
            OSError: the client has gone.
            RuntimeError: it was decided before.
            TypeError, ValueError: as Response.
        """
        response = Response(status, headers, body)
        if status == 101:
            raise ValueError("status 101 is what accept() answers")
        await self._decide().reject(response)

    def _decide(self) -> Decider:
        decider, self._decider = self._decider, None
        if decider is None:
            raise RuntimeError("this request was accepted or rejected before")
        return decider


class DecidingHandler:
    """What deciding() makes of a handler."""

    def __init__(self, function: Callable[[PendingRequest], Awaitable[object]]) -> None:
        check_handler(function, "the PendingRequest")
        self.function = function


def deciding(function: Callable[[PendingRequest], Awaitable[object]]) -> DecidingHandler:
    """A handler for serve() that is called with the request, before the answer to it.

    It calls `await request.accept()`, which gives the WebSocket, or `await request.reject(status)`.
    A decision belongs into `process_request` where it can be made there; this is for handlers that
    have to do with the connection what they have decided by. A request that is not decided
    when the handler returns, or within `open_timeout`, is answered 500.

    Args:
        function: a coroutine function that takes a PendingRequest.
    """
    return DecidingHandler(function)
