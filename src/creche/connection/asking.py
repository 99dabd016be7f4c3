"""The client's side of the opening handshake over a transport: asking."""

from __future__ import annotations

import anyio

from creche.handshake.client import ClientHandshake
from creche.handshake.http import Response
from creche.transports.base import Transport
from creche.transports.sockets import named_error

# A refusing server's answer is worth waiting for, but not for long.
_REFUSAL_SECONDS = 1.0


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
            raise handshake.invalid_status(handshake.refusal)


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
