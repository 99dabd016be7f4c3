"""The opening handshake over a transport, both sides: asking, and answering."""

from __future__ import annotations

import copy
import inspect
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import anyio
from anyio.abc import SocketAttribute

from creche.handshake.client import ClientHandshake
from creche.handshake.exceptions import InvalidMessage, InvalidStatus, Rejection
from creche.handshake.forwarding import UNIX, UNKNOWN, find_client
from creche.handshake.headers import Headers, HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.rules import check_switching
from creche.handshake.server import ServerHandshake, offered_subprotocols, reject
from creche.options.declared import ServerHandshakeOptions
from creche.transports.base import Transport
from creche.transports.sockets import named_error

# A refusing server's answer is worth waiting for, but not for long.
_REFUSAL_SECONDS = 1.0

# A refused client is given so long, and may send so much more, before the connection is closed:
# closing it with unread input would destroy our answer on its way.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 2**16

_AF_UNIX = getattr(socket, "AF_UNIX", None)


class Gate(Protocol):
    """Decides whether a server lets a client in, whatever it asks for."""

    __slots__ = ()

    def check_open(self, request: Request) -> None:
        """Raise a Rejection if nobody is let in any more, or this client asks too often."""

    def admit(self) -> None:
        """Count a client in, or raise a Rejection if there are too many."""


class OpenGate(Gate):
    """Lets everybody in."""

    def check_open(self, request: Request) -> None:
        pass

    def admit(self) -> None:
        pass


async def ask(transport: Transport, handshake: ClientHandshake) -> Response:
    """The client's side: send the request, return the answer 101.

    Raises:
        HandshakeError: another answer, or one that breaks RFC 6455 4.1.
        OSError: the transport broke.
    """
    await say(transport, handshake.request_bytes())
    while True:
        try:
            data = await transport.receive()
        except OSError as exc:
            what = f"the server broke the connection off before it answered{handshake.advice}"
            raise named_error(exc, what) from None
        if not data:
            handshake.receive_eof()
        response = handshake.receive_data(data)
        if response is not None:
            return response
        if handshake.refusal is not None:
            await _read_refusal(transport, handshake)
            raise InvalidStatus(handshake.refusal)


async def say(transport: Transport, request: bytes) -> None:
    """Send a request, as far as it is taken: who has gone already may have said why.

    Raises:
        OSError: the transport broke.
    """
    transport.outbox += request
    try:
        await transport.drain()
    except (BrokenPipeError, ConnectionResetError):
        transport.outbox.clear()


async def _read_refusal(transport: Transport, handshake: ClientHandshake) -> None:
    """Read the body of another answer than 101, as far as it comes soon."""
    with anyio.move_on_after(_REFUSAL_SECONDS):
        while True:
            try:
                data = await transport.receive()
            except OSError:
                return  # many who refuse reset the connection; what has come will do
            if not data:
                handshake.receive_eof()
            handshake.receive_data(data)


class Answering:
    """The server's side: reads a request, and answers it.

    Each method but the first follows the one before, and raises:
        Rejection: the request was refused, and the client told why.
        HandshakeError: it did not come.
        OSError: the transport broke.
    """

    __slots__ = ("_gate", "_handshake", "_options", "_transport")

    def __init__(
        self,
        transport: Transport,
        handshake: ServerHandshake,
        options: ServerHandshakeOptions,
        gate: Gate,
    ) -> None:
        self._transport = transport
        self._handshake = handshake
        self._options = options
        self._gate = gate

    async def read_request(self) -> Request:
        """The request, unless it is refused by what is known of it, or by process_request."""
        try:
            request = await self._read()
            request.find_client = _client_finder(tuple(self._options["trusted_proxies"]))
            self._gate.check_open(request)
            self._handshake.check_host(request)
            answer = await self._call("process_request", Response, request)
            if answer is not None:
                raise Rejection(answer)
        except Rejection as refusal:
            await self.refuse(refusal.response)
            raise
        return request

    async def _read(self) -> Request:
        while True:
            data = await self._transport.receive()
            if not data:
                raise InvalidMessage("the client closed the connection before it asked")
            request = self._handshake.receive_data(data)
            if request is not None:
                request.extra_attributes = self._transport.extra_attributes
                return request

    async def choose_subprotocol(self, request: Request) -> str | None:
        """The subprotocol by the options, if the request asks for a WebSocket at all."""
        try:
            self._handshake.check(request)
            if self._options["select_subprotocol"] is None:
                return self._handshake.choose_subprotocol(request)
            chosen: str | None = await self._call(
                "select_subprotocol", str, request, offered_subprotocols(request)
            )
            return chosen
        except Rejection as refusal:
            await self.refuse(refusal.response)
            raise

    async def accept(
        self, request: Request, subprotocol: str | None, headers: HeadersLike = ()
    ) -> Response:
        """Answer 101, with further header fields perhaps."""
        try:
            try:
                response = self._handshake.accept(request, subprotocol)
            except ValueError:
                raise self._failed() from None
            if headers:
                for name, value in Headers(headers).fields:
                    response.headers.add(name, value)
            response = await self._call("process_response", Response, request, response) or response
            if response.status != 101:
                raise Rejection(response)
            try:
                check_switching(response.headers)
            except ValueError:
                raise self._failed() from None
            self._handshake.agreed(response)
            self._gate.admit()
        except Rejection as refusal:
            await self.refuse(refusal.response)
            raise
        self._transport.outbox += self._bytes(response)
        await self._transport.drain()
        return response

    async def refuse(self, response: Response) -> None:
        """Answer otherwise, and let the client read it."""
        self._transport.outbox += self._bytes(response)
        await self._transport.drain()
        self._transport.send_eof()
        with anyio.move_on_after(_LINGER_SECONDS):
            left = _LINGER_BYTES
            while left > 0:
                data = await self._transport.receive()
                if not data:
                    break
                left -= len(data)

    async def _call(self, name: str, kind: type, *args: Any) -> Any:
        """Call a hook, sync or async, that returns something of a kind, or None, as it is for one
        that is not there; what it raises is a 500. A response is copied: we add to it, and the
        application may return the same one each time."""
        hook: Callable[..., Any] | None = self._options[name]  # type: ignore[literal-required]
        if hook is None:
            return None
        try:
            answer = hook(*args)
            if inspect.isawaitable(answer):
                answer = await answer
            if not isinstance(answer, kind | None):
                # Not the hook itself: it may be a partial() with secrets in it.
                raise TypeError(
                    f"{name} must return a {kind.__name__} or None, not {type(answer).__name__}"
                )
            if name == "process_request" and isinstance(answer, Response) and answer.status == 101:
                raise ValueError("process_request must return None to go on, not status 101")
        except Exception:
            raise self._failed() from None
        if isinstance(answer, Response) and answer is not args[-1]:
            return copy.copy(answer)
        return answer

    def _failed(self) -> Rejection:
        """For a hook that has failed."""
        self._options["logger"].exception("deciding about an opening handshake failed")
        return reject(500, "the server failed to decide about the request")

    def _bytes(self, response: Response) -> bytes:
        """The bytes of a response; of a 500 where a hook has made one that cannot be sent."""
        if self._options["server_header"] is not None:
            response.headers.add_default("Server", self._options["server_header"])
        try:
            return self._handshake.respond(response)
        except ValueError:
            self._options["logger"].exception("a response cannot be sent")
            return self._handshake.respond(reject(500, "the server failed to answer").response)


@lru_cache(maxsize=16)
def _client_finder(trusted: Sequence[str]) -> Callable[[Request], str | None]:
    """What gives the client's address, the same function for all requests to a server."""

    def find(request: Request) -> str | None:
        return find_client(find_peer(request), request.headers, trusted)

    return find


def find_peer(request: Request) -> str | None:
    """Who is at the other end of a request's connection, as `find_client` wants to know it.

    A stream of AnyIO asks for the address when we do, and does not get it any more once the
    connection has been reset. That makes nobody the peer of a Unix socket.
    """
    address = request.extra(SocketAttribute.remote_address, None)
    if isinstance(address, tuple):
        return str(address[0])
    family = request.extra(SocketAttribute.family, None)
    if family is None:
        return None
    return UNIX if family == _AF_UNIX else UNKNOWN
