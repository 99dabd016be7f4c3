"""Visitor: one client of a server, from its first byte to its last."""

from __future__ import annotations

import logging
import random
import socket
from typing import Any

import anyio
from anyio import TaskHandle
from anyio.abc import ByteStream

from creche.connection.handlers import is_cancelled, user_part
from creche.connection.link import Link
from creche.connection.opening import Answering, Gate, find_peer
from creche.connection.websocket import WebSocket
from creche.engine.deadlines import NEVER, Timer
from creche.engine.engine import Account
from creche.exceptions import ConnectionClosedError, HandshakeError
from creche.handshake.exceptions import Rejection
from creche.handshake.forwarding import client_key
from creche.handshake.headers import HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.server import OURS, ServerHandshake, reject
from creche.options.declared import ServerHandshakeOptions
from creche.protocol.closing import ABNORMAL, Close
from creche.protocol.states import Side
from creche.server.deciding import Decider, DecidingHandler, PendingRequest
from creche.server.register import Register, note_handler
from creche.transports.base import Transport
from creche.transports.dialing import open_transport
from creche.transports.streams import StreamTransport

# The part of max_lifetime that chance takes off.
_LIFETIME_JITTER = 0.1

# A client that is refused because the server is full may come again after so many seconds.
_RETRY_AFTER = "10"


class Visitor(Gate):
    """A client of a server, from its first byte to its last.

    Attributes:
        task: what serves it.
        peer: its address as accept() has told it, until there is a transport.
        timer: the deadline of the opening handshake.
        late: whether that is over.
        admitted: whether it counts among the connections.
    """

    __slots__ = ("_client", "_register", "admitted", "late", "peer", "task", "timer")

    def __init__(self, register: Register) -> None:
        self.task: TaskHandle[None] | anyio.CancelScope | None = None
        self.peer: Any = None
        self.late = False
        self.admitted = False
        self._client: str | None = None  # what counts as one client
        self._register = register
        engine = register.account.engine
        self.timer = engine.schedule(self, deadline(register.options, engine.now()))

    def cancel(self) -> None:
        """Cancel its task."""
        assert self.task is not None  # from the turn on in which the client came
        self.task.cancel()

    def timeout_due(self, _now: float) -> float:
        """The time for its handshake is over."""
        self.late = True
        self.cancel()
        return NEVER

    def check_open(self, request: Request) -> None:
        register = self._register
        if register.draining:
            raise reject(503, "the server is shutting down")
        options = register.options
        if options["handshake_rate"] is None and options["max_connections_per_client"] is None:
            return
        self._client = client_key(find_peer(request), request.headers, options["trusted_proxies"])
        if self._client is not None:
            seconds = register.limits.handshake(self._client, anyio.current_time())
            if seconds:
                raise reject(429, "you ask too often", [("Retry-After", f"{seconds:.0f}")])

    def admit(self) -> None:
        register = self._register
        limit = register.options["max_connections"]
        if limit is not None and register.admitted >= limit:
            register.warn("more than max_connections=%d: clients are refused", limit)
            raise reject(503, "the server is full", [("Retry-After", _RETRY_AFTER)])
        if self._client is not None and not register.limits.connect(self._client):
            raise reject(429, "you have too many connections", [("Retry-After", _RETRY_AFTER)])
        register.admitted += 1
        self.admitted = True

    def leave(self) -> None:
        """It has gone."""
        self.timer.cancel()
        if self.admitted:
            self._register.admitted -= 1
            if self._client is not None:
                self._register.limits.disconnect(self._client)
        self._register.leaves(self)

    async def serve(self, accepted: socket.socket | ByteStream) -> None:
        """All of its time here. It raises nothing.

        Every coroutine that waits takes a quarter of a KiB: most of it is in this one.
        """
        register = self._register
        register.tell("connection.open.started")
        try:
            if isinstance(register.handler, DecidingHandler):
                await _Decider(self, register).serve(accepted, register.handler)
                return
            ws = await self._open(accepted)
            if ws is None:
                return
            lifetime = self.begin(ws)
            note_handler(self)
            try:
                async with ws:
                    await register.handler(ws)
            except Exception as exc:
                self.note_end(ws, exc)
            finally:
                self.end(ws, lifetime)
        except Exception:
            register.logger.exception("a connection failed; please report it")
        except anyio.get_cancelled_exc_class():
            # The task ends here anyway. What got out of it would keep its frames in a cycle, and on
            # asyncio would cancel the server if nobody has cancelled this task: the handler has
            # awaited one that was cancelled elsewhere.
            if not is_cancelled():
                register.logger.error("handler was cancelled from outside of its scopes")
        finally:
            self.leave()

    async def _open(self, accepted: socket.socket | ByteStream) -> WebSocket | None:
        """The opening handshake; None if it failed."""
        register = self._register
        try:
            transport = await self.open_transport(accepted)
            ws = await accept(transport, register.account, register.options, self)
        except (OSError, HandshakeError) as exc:
            register.refused(exc)
            return None
        except anyio.get_cancelled_exc_class():
            if self.late:
                register.refused(out_of_time(register.options))
            raise
        self.has_opened()
        return ws

    async def open_transport(self, accepted: socket.socket | ByteStream) -> Transport:
        """What moves its bytes."""
        if isinstance(accepted, socket.socket):
            peer, self.peer = self.peer, None  # the transport keeps it
            tls = self._register.options["ssl"]
            return await open_transport(accepted, tls, server_side=True, peer=peer)
        return StreamTransport(accepted)

    def has_opened(self) -> None:
        """Its opening handshake has succeeded."""
        self.timer.cancel()
        self._register.has_opened(self)

    def begin(self, ws: WebSocket) -> Timer | None:
        """Its connection is open; returns the timer of its life, if that is limited."""
        register = self._register
        register.begins(ws)
        self._log(ws, logging.DEBUG, "connection open")
        register.tell("connection.open.complete", websocket=ws)
        seconds = register.options["max_lifetime"]
        if seconds is None:
            return None
        # Those that came together need not come back together.
        seconds *= 1 - _LIFETIME_JITTER * random.random()
        return register.account.engine.schedule(_Lifetime(ws._link), anyio.current_time() + seconds)

    def note_end(self, ws: WebSocket, exc: Exception) -> None:
        """What the handler has raised."""
        if user_part(exc, ws._link) is not None:
            self._register.failed += 1
            ws.logger.error("handler raised; the connection is closed with 1011", exc_info=exc)
        elif isinstance(exc, ConnectionClosedError):
            self._log(ws, logging.INFO, "connection lost: %s", exc)
        else:
            self._log(ws, logging.DEBUG, "handler met the end: %s", exc)

    def end(self, ws: WebSocket, lifetime: Timer | None) -> None:
        """The handler has ended, and with it the connection."""
        self._register.ends(ws, ws.close_code or ABNORMAL)
        if lifetime is not None:
            lifetime.cancel()
        self._log(ws, logging.DEBUG, "connection closed")

    def _log(self, ws: WebSocket, level: int, message: str, *args: object) -> None:
        """With the connection's name, which is made only where somebody wants to know it."""
        if self._register.logger.isEnabledFor(level):
            ws.logger.log(level, message, *args)


class _Decider(Decider):
    """Carries out what a deciding() handler decides about one client."""

    def __init__(self, visitor: Visitor, register: Register) -> None:
        self._visitor = visitor
        self._register = register
        self._decided = False
        self._ws: WebSocket | None = None
        self._lifetime: Timer | None = None

    async def serve(self, accepted: socket.socket | ByteStream, handler: DecidingHandler) -> None:
        register = self._register
        try:
            self._transport = await self._visitor.open_transport(accepted)
            try:
                self._handshake = _handshake(register.options)
                self._answering = Answering(
                    self._transport, self._handshake, register.options, self._visitor
                )
                await self._run(handler, PendingRequest(await self._answering.read_request(), self))
            finally:
                if self._ws is None:
                    with anyio.CancelScope(shield=True):
                        await self._transport.aclose_forcefully()
        except (OSError, HandshakeError) as exc:
            register.refused(exc)
        except anyio.get_cancelled_exc_class():
            if self._ws is None and self._visitor.late:
                register.refused(out_of_time(register.options))
            raise

    async def _run(self, handler: DecidingHandler, request: PendingRequest) -> None:
        register = self._register
        error: Exception | None = None
        note_handler(self._visitor)
        try:
            await handler.function(request)
        except BaseException as exc:
            if self._ws is not None:
                await self._ws.__aexit__(type(exc), exc, None)
            if not isinstance(exc, Exception):
                raise
            error = exc
        else:
            if self._ws is not None:
                await self._ws.__aexit__(None, None, None)
        finally:
            if self._ws is not None:
                self._visitor.end(self._ws, self._lifetime)
        try:
            if self._ws is not None:
                if error is not None:
                    self._visitor.note_end(self._ws, error)
            elif self._decided and isinstance(error, OSError | HandshakeError):
                raise error
            elif error is not None or not self._decided:
                register.logger.error("handler did not decide about a request", exc_info=error)
                if not self._decided:
                    refusal = reject(500, "the server failed to decide about the request")
                    await self.reject(refusal.response)
                register.failed += error is not None
        finally:
            del error  # a frame that keeps what it raises keeps itself

    async def accept(
        self, request: Request, subprotocol: str | None, headers: HeadersLike
    ) -> WebSocket:
        self._decided = True
        register, answering = self._register, self._answering
        chosen = await answering.choose_subprotocol(request)
        response = await answering.accept(
            request, chosen if subprotocol is OURS else subprotocol, headers
        )
        self._ws = _new_websocket(
            self._transport,
            register.account,
            register.options,
            self._handshake,
            request,
            response,
        )
        self._visitor.has_opened()
        self._lifetime = self._visitor.begin(self._ws)
        return self._ws

    async def reject(self, response: Response) -> None:
        self._decided = True
        await self._answering.refuse(response)
        self._register.refused(Rejection(response))


class _Lifetime:
    """The deadline by which a connection is closed, however well it is."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def timeout_due(self, _now: float) -> float:
        self._link.begin_close(Close(1001, "max_lifetime"))
        return NEVER


async def accept(
    transport: Transport,
    account: Account,
    options: ServerHandshakeOptions,
    gate: Gate,
) -> WebSocket:
    """The opening handshake on a new transport, which is closed if it fails."""
    try:
        handshake = _handshake(options)
        answering = Answering(transport, handshake, options, gate)
        request = await answering.read_request()
        subprotocol = await answering.choose_subprotocol(request)
        response = await answering.accept(request, subprotocol)
        return _new_websocket(transport, account, options, handshake, request, response)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await transport.aclose_forcefully()
        raise


def _handshake(options: ServerHandshakeOptions) -> ServerHandshake:
    return ServerHandshake(
        origins=options["origins"],
        subprotocols=options["subprotocols"],
        extensions=options["extensions"],
        hosts=options["hosts"],
        max_header_bytes=options["max_header_bytes"],
    )


def _new_websocket(
    transport: Transport,
    account: Account,
    options: ServerHandshakeOptions,
    handshake: ServerHandshake,
    request: Request,
    response: Response,
) -> WebSocket:
    return WebSocket(
        transport,
        account,
        Side.SERVER,
        options,
        request=request,
        response=response,
        subprotocol=handshake.subprotocol,
        extensions=handshake.extensions,
        early_data=handshake.trailing_data,
    )


def deadline(options: ServerHandshakeOptions, now: float) -> float:
    """When an opening handshake that begins now must be over."""
    seconds = options["open_timeout"]
    return NEVER if seconds is None else now + seconds


def out_of_time(options: ServerHandshakeOptions) -> TimeoutError:
    return TimeoutError(f"the opening handshake took over {options['open_timeout']:g} s")
