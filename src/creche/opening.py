"""The opening handshake over a transport, both sides: asking, and answering."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import anyio

from creche.options import ServerHandshakeOptions
from creche.protocol.client_handshake import ClientHandshake
from creche.protocol.exceptions import InvalidMessage, InvalidStatus, Rejection
from creche.protocol.http import Request, Response
from creche.protocol.server_handshake import ServerHandshake, reject
from creche.transports.base import Transport

# A refusing server's answer is worth waiting for, but not for long.
_REFUSAL_SECONDS = 1.0

# A refused client is given so long, and may send so much more, before the connection is closed:
# closing it with unread input would destroy our answer on its way.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 2**16


class Gate(Protocol):
    """Decides whether a server lets a client in, whatever it asks for."""

    __slots__ = ()

    def check_open(self) -> None:
        """Raise a Rejection if nobody is let in any more."""

    def admit(self) -> None:
        """Count a client in, or raise a Rejection if there are too many."""


class OpenGate(Gate):
    """Lets everybody in."""

    def check_open(self) -> None:
        pass

    def admit(self) -> None:
        pass


async def ask(transport: Transport, handshake: ClientHandshake) -> Response:
    """The client's side: send the request, return the answer 101.

    Raises:
        HandshakeError: another answer, or one that breaks RFC 6455 4.1.
        OSError: the transport broke.
    """
    transport.outbox += handshake.request_bytes()
    await transport.drain()
    while True:
        data = await transport.receive()
        if not data:
            handshake.receive_eof()
        response = handshake.receive_data(data)
        if response is not None:
            return response
        if handshake.refusal is not None:
            await _read_refusal(transport, handshake)
            raise InvalidStatus(handshake.refusal)


async def _read_refusal(transport: Transport, handshake: ClientHandshake) -> None:
    """Read the body of another answer than 101, as far as it comes soon."""
    with anyio.move_on_after(_REFUSAL_SECONDS):
        while True:
            data = await transport.receive()
            if not data:
                handshake.receive_eof()
            handshake.receive_data(data)


async def answer(
    transport: Transport,
    handshake: ServerHandshake,
    options: ServerHandshakeOptions,
    gate: Gate,
) -> tuple[Request, Response]:
    """The server's side: read the request, send the answer; returns both if that is 101.

    Raises:
        HandshakeError: the request was refused, and the client told why, or it did not come.
        OSError: the transport broke.
    """
    try:
        request = await _read_request(transport, handshake)
        gate.check_open()
        handshake.check_host(request)
        response = await _decide(request, handshake, options)
        gate.admit()
    except Rejection as refusal:
        await _refuse(transport, _answer(refusal.response, handshake, options))
        raise
    transport.outbox += _answer(response, handshake, options)
    await transport.drain()
    return request, response


async def _read_request(transport: Transport, handshake: ServerHandshake) -> Request:
    while True:
        data = await transport.receive()
        if not data:
            raise InvalidMessage("the client closed the connection before it asked")
        request = handshake.receive_data(data)
        if request is not None:
            request.extra_attributes = transport.extra_attributes
            return request


async def _decide(
    request: Request, handshake: ServerHandshake, options: ServerHandshakeOptions
) -> Response:
    """The answer 101; anything else is raised as a Rejection."""
    try:
        if options["process_request"] is not None:
            answer = await _call(options["process_request"], request)
            if answer is not None:
                raise Rejection(answer)
        response = handshake.accept(request)
        if options["process_response"] is not None:
            response = await _call(options["process_response"], request, response) or response
            if response.status != 101:
                raise Rejection(response)
    except Rejection:
        raise
    except Exception:
        options["logger"].exception("deciding about an opening handshake failed")
        raise reject(500, "the server failed to decide about the request") from None
    return response


async def _call(hook: Callable[..., Any], *args: Any) -> Any:
    """Call a hook that may be sync or async; what it returns is a Response or None."""
    answer = hook(*args)
    if inspect.isawaitable(answer):
        answer = await answer
    if answer is not None and not isinstance(answer, Response):
        raise TypeError(f"{hook} must return a Response or None, not {type(answer).__name__}")
    return answer


def _answer(
    response: Response, handshake: ServerHandshake, options: ServerHandshakeOptions
) -> bytes:
    """The bytes of a response; of a 500 where a hook has made one that cannot be sent."""
    if options["server_header"] is not None:
        response.headers.add_default("Server", options["server_header"])
    try:
        return handshake.respond(response)
    except ValueError:
        options["logger"].exception("a response cannot be sent")
        return handshake.respond(reject(500, "the server failed to answer").response)


async def _refuse(transport: Transport, answer: bytes) -> None:
    """Send an answer and let the client read it."""
    transport.outbox += answer
    await transport.drain()
    transport.send_eof()
    with anyio.move_on_after(_LINGER_SECONDS):
        left = _LINGER_BYTES
        while left > 0:
            data = await transport.receive()
            if not data:
                break
            left -= len(data)
