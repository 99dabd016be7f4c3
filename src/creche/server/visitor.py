"""Visitor: one client of a server, from its first byte to its last."""

from __future__ import annotations

import inspect
import logging
import random
import socket
from types import TracebackType
from typing import Any

import anyio
from anyio import TaskHandle
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from creche.connection.answering import Answerer, Answering, find_peer
from creche.connection.handlers import is_cancelled, user_part
from creche.connection.link import Link
from creche.connection.websocket import WebSocket
from creche.engine.deadlines import NEVER, Timer
from creche.engine.patience import LATE_SECONDS
from creche.exceptions import ConnectionClosedError, HandshakeError
from creche.handshake.exceptions import Rejection
from creche.handshake.forwarding import client_key
from creche.handshake.headers import HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.server import reject
from creche.options.declared import ServerHandshakeOptions
from creche.protocol.closing import ABNORMAL, Close
from creche.server.deciding import Decider, DecidingHandler, PendingRequest
from creche.server.register import Register, note_handler
from creche.transports.base import Transport
from creche.transports.dialing import accept_transport
from creche.transports.streams import StreamTransport

_LIVING = (TaskHandle.Status.PENDING, TaskHandle.Status.CANCELLING)

# Hooks have so many seconds, or open_timeout if that is less, however late a request was read: the
# event loop may have been blocked.
_HOOK_SECONDS = 1.0

# The part of max_lifetime that chance takes off.
_LIFETIME_JITTER = 0.1

# A client that is refused because the server is full may come again after so many seconds.
_RETRY_AFTER = "10"


class Visitor(Answerer):
    """A client of a server, from its first byte to its last.

    It costs no task until the application has something to do with it. Its task is the block of a
    `with` statement.
    """

    __slots__ = (
        "_admitted",
        "_answering",
        "_client",
        "_dismissed",
        "_hastened",
        "_late",
        "_least",
        "_lifetime",
        "_looked",
        "_register",
        "_task",
        "_timer",
        "_told",
    )

    def __init__(self, register: Register) -> None:
        self._register = register
        self._answering: Answering | None = None  # until its connection is open
        self._task: TaskHandle[None] | anyio.CancelScope | None = None
        self._client: str | None = None  # what counts as one client
        self._admitted = False  # whether it counts among the connections
        self._told = False  # whether the server knows how its handshake has ended
        self._dismissed = False
        self._hastened = False  # by a server that drains
        self._late = False  # whether the time for its handshake is over
        self._looked = False
        self._least = 0.0  # its deadline is not before this
        self._lifetime: Timer | None = None
        engine = register.account.engine
        self._timer = engine.schedule(self, deadline(register.options, engine.now()))

    def arrive(self, accepted: socket.socket | ByteStream, peer: Any = None) -> None:
        """Begin to read what it asks for.

        Args:
            accepted: the connection, which belongs to the visitor.
            peer: its address, where it is known.
        """
        register = self._register
        try:
            register.arrives(self)
            register.tell("connection.open.started")
            transport = self._new_transport(accepted, peer)
            self._answering = Answering(transport, register.account, register.options, self)
            self._answering.start()
        except BaseException as exc:
            # KeyboardInterrupt may strike here: nobody must wait for what has not begun.
            if self._answering is not None:
                self._answering.close()
            if isinstance(accepted, socket.socket):
                accepted.close()
            self.leave()
            if not isinstance(exc, Exception):
                raise
            self.failed(exc)
            if not isinstance(exc, OSError):
                register.logger.exception("a connection failed; please report it")

    def _new_transport(self, accepted: socket.socket | ByteStream, peer: Any) -> Transport:
        if isinstance(accepted, socket.socket):
            register = self._register
            return accept_transport(accepted, register.options["ssl"], peer, register.tls_buffer)
        return StreamTransport(accepted)

    def cancel(self) -> None:
        """End its time here."""
        self._dismissed = True
        if self._task is not None:
            self._task.cancel()
            return
        if self._late:
            self.failed(self._impatience())
        if self._answering is not None:
            self._answering.close()
        self.leave()

    def _impatience(self) -> Exception:
        """Why a client that has not asked was sent away."""
        if self._hastened:
            return ConnectionAbortedError("the server drains, and the client has not asked yet")
        return out_of_time(self._register.options)

    def hasten(self, deadline: float) -> None:
        if self._task is None and not self._told and deadline < self._timer.deadline:
            self._hastened = True
            self._timer.cancel()
            self._timer = self._register.account.engine.schedule(self, deadline)

    def drop(self) -> bool:
        """As `cancel`, where there are too many; returns whether it has not been refused before."""
        is_news, self._told = not self._told, True
        self.cancel()
        return is_news

    def check(self) -> None:
        task = self._task
        if not isinstance(task, TaskHandle):
            return
        if inspect.getcoroutinestate(task.coro) == inspect.CORO_CREATED:
            task.coro.close()  # it was cancelled before it began, which AnyIO does not see
        elif task.status in _LIVING:
            return
        self.leave()

    def timeout_due(self, now: float) -> float:
        """The time for its opening handshake is over; what it has said already is read before."""
        if self._answering is not None:
            self._answering.look()
            if self._answering is None:
                return NEVER  # it has asked, or is lost
        if self._told:
            return NEVER  # it has been refused, which takes what it takes
        if now < self._least:
            return self._least
        if not self._looked:
            self._looked = True
            return now + LATE_SECONDS
        self._late = True
        if self._task is None:
            self.cancel()
        else:
            self._task.cancel()
        return NEVER

    def leave(self) -> None:
        """It has gone. May be called twice."""
        self._timer.cancel()
        self._answering = None
        if self._admitted:
            self._admitted = False
            self._register.admitted -= 1
            if self._client is not None:
                self._register.limits.disconnect(self._client)
        self._register.leaves(self)

    # Its opening handshake

    def check_open(self, request: Request) -> None:
        register = self._register
        if register.draining:
            raise reject(503, "the server is shutting down")
        options = register.options
        if options["handshake_rate"] is None and options["max_connections_per_client"] is None:
            return
        self._client = client_key(find_peer(request), request.headers, options["trusted_proxies"])
        if self._client is not None:
            seconds = register.limits.handshake(self._client, register.account.engine.now())
            if seconds:
                raise reject(429, "you ask too often", [("Retry-After", f"{seconds:.0f}")])

    def asked(self, request: Request) -> None:
        assert self._answering is not None
        if self._register.asks_application:
            seconds = self._register.options["open_timeout"]
            if seconds is not None:
                self._least = self._register.account.engine.now() + min(seconds, _HOOK_SECONDS)
            self._start(request)
            return
        ws = self._answering.accept_now(request)
        try:
            self.begin(ws)
            self._start(ws)
        except BaseException:
            ws._link.abort("the server cannot serve it")
            self.end(ws)
            self.leave()
            raise

    def admit(self) -> None:
        register = self._register
        limit = register.options["max_connections"]
        if limit is not None and register.admitted >= limit:
            register.warn("more than max_connections=%d: clients are refused", limit)
            raise reject(503, "the server is full", [("Retry-After", _RETRY_AFTER)])
        if self._client is not None and not register.limits.connect(self._client):
            raise reject(429, "you have too many connections", [("Retry-After", _RETRY_AFTER)])
        register.admitted += 1
        self._admitted = True

    def failed(self, exc: Exception) -> None:
        if not self._told:
            self._told = True
            request = None if self._answering is None else self._answering.request
            self._register.refused(exc, None if request is None else request.client_address)

    def gone(self) -> None:
        if self._task is None:
            self.leave()

    # Its task

    def _start(self, what: WebSocket | Request) -> None:
        self._task = self._register.start_task(self.serve, what)

    def __enter__(self) -> None:
        """Its task begins."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Its task ends; returns whether it raises nothing."""
        is_cancellation = isinstance(exc, anyio.get_cancelled_exc_class())
        if isinstance(exc, Exception):
            if not isinstance(exc, OSError | HandshakeError):
                self._register.logger.error("a connection failed; please report it", exc_info=exc)
            self.failed(exc)
        elif is_cancellation and self._late:
            self.failed(out_of_time(self._register.options))
            self._refuse_late()
        elif is_cancellation and not is_cancelled():
            who = "handler" if self._answering is None else "what decides about a request"
            self._register.logger.error("%s was cancelled from outside of its scopes", who)
        self._task = None
        answering = self._answering
        if answering is None or self._dismissed or not answering.is_refusing():
            if answering is not None:
                answering.close()
            self.leave()
        # The task ends here anyway. A cancellation that got out of it would keep its frames in a
        # cycle, and on asyncio would cancel the server if nobody has cancelled this task: the
        # handler has awaited one that was cancelled elsewhere.
        return is_cancellation or isinstance(exc, Exception)

    def _refuse_late(self) -> None:
        """The application has not decided in time."""
        if self._answering is not None:  # pragma: no branch - decided in the last moment
            try:
                self._answering.refuse(reject(500, "the server took too long to decide").response)
            except OSError:
                pass  # the client has gone

    async def serve(self, what: WebSocket | Request) -> None:
        """Serve its connection; or its request, about which the application decides.

        Every coroutine that waits takes a quarter of a KiB: most of it is in this one.
        """
        with self:
            note_handler(self)  # hooks may shut the server down as well
            handler = self._register.handler
            if isinstance(handler, DecidingHandler):
                assert isinstance(what, Request)
                await self._let_decide(handler, what)
                return
            ws = what if isinstance(what, WebSocket) else await self._decide(what)
            try:
                async with ws:
                    await handler(ws)
            except Exception as exc:
                self.note_end(ws, exc)
            finally:
                self.end(ws)

    async def _decide(self, request: Request) -> WebSocket:
        assert self._answering is not None
        ws = await self._answering.decide(request)
        self.begin(ws)
        return ws

    async def _let_decide(self, handler: DecidingHandler, request: Request) -> None:
        answering = self._answering
        assert answering is not None
        await answering.process(request)
        await _Decider(self, self._register, answering).run(handler, request)

    def begin(self, ws: WebSocket) -> None:
        """Its connection is open."""
        self._timer.cancel()
        self._answering = None
        self._told = True
        register = self._register
        register.has_opened(self, ws)
        self._log(ws, logging.DEBUG, "connection open")
        register.tell("connection.open.complete", websocket=ws)
        seconds = register.options["max_lifetime"]
        if seconds is not None:
            # Those that came together need not come back together.
            seconds *= 1 - _LIFETIME_JITTER * random.random()
            engine = register.account.engine
            self._lifetime = engine.schedule(_Lifetime(ws._link), engine.now() + seconds)

    def note_end(self, ws: WebSocket, exc: Exception) -> None:
        """What the handler has raised."""
        if user_part(exc, ws._link) is not None:
            self._register.failed += 1
            ws.logger.error("handler raised; the connection is closed with 1011", exc_info=exc)
        elif isinstance(exc, ConnectionClosedError):
            self._log(ws, logging.INFO, "connection lost: %s", exc)
        else:
            self._log(ws, logging.DEBUG, "handler met the end: %s", exc)

    def end(self, ws: WebSocket) -> None:
        """The handler has ended, and with it the connection."""
        self._register.ends(ws, ws.close_code or ABNORMAL)
        if self._lifetime is not None:
            self._lifetime.cancel()
        self._log(ws, logging.DEBUG, "connection closed")

    def _log(self, ws: WebSocket, level: int, message: str, *args: object) -> None:
        """With the connection's name, which is made only where somebody wants to know it."""
        if self._register.logger.isEnabledFor(level):
            ws.logger.log(level, message, *args)


class _Decider(Decider):
    """Carries out what a deciding() handler decides about one client."""

    def __init__(self, visitor: Visitor, register: Register, answering: Answering) -> None:
        self._visitor = visitor
        self._register = register
        self._answering = answering
        self._decided = False
        self._ws: WebSocket | None = None

    async def run(self, handler: DecidingHandler, request: Request) -> None:
        """Let it decide, and serve the connection if there is one."""
        error: Exception | None = None
        try:
            await handler.function(PendingRequest(request, self))
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
                self._visitor.end(self._ws)
        try:
            if self._ws is not None:
                if error is not None:
                    self._visitor.note_end(self._ws, error)
            elif self._decided and isinstance(error, OSError | HandshakeError):
                raise error
            elif error is not None or not self._decided:
                self._register.failed += error is not None
                self._register.logger.error(
                    "handler did not decide about a request", exc_info=error
                )
                if not self._decided:
                    refusal = reject(500, "the server failed to decide about the request")
                    await self.reject(refusal.response)
        finally:
            del error  # a frame that keeps what it raises keeps itself

    async def accept(
        self, request: Request, subprotocol: str | None, headers: HeadersLike
    ) -> WebSocket:
        self._decided = True
        self._ws = await self._answering.accept(request, subprotocol, headers)
        self._visitor.begin(self._ws)
        return self._ws

    async def reject(self, response: Response) -> None:
        self._decided = True
        self._visitor.failed(Rejection(response))
        self._answering.refuse(response)
        await checkpoint()


class _Lifetime:
    """The deadline by which a connection is closed, however well it is."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def timeout_due(self, _now: float) -> float:
        self._link.begin_close(Close(1001, "max_lifetime"))
        return NEVER


def deadline(options: ServerHandshakeOptions, now: float) -> float:
    """When an opening handshake that begins now must be over."""
    seconds = options["open_timeout"]
    return NEVER if seconds is None else now + seconds


def out_of_time(options: ServerHandshakeOptions) -> TimeoutError:
    """For an opening handshake that took too long."""
    return TimeoutError(f"the opening handshake took over {options['open_timeout']:g} s")
