"""reconnect(): a connection that is opened again whenever it is lost."""

from __future__ import annotations

import inspect
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TypeVar, Unpack

import anyio

from creche.client.connect import TCPWay, check_target, open_websocket
from creche.connection.callables import check_handler
from creche.connection.handlers import user_part
from creche.connection.pending import leave
from creche.connection.websocket import WebSocket
from creche.exceptions import EndOfMessages
from creche.handshake.exceptions import (
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)
from creche.options.declared import Attempt, ReconnectOptions
from creche.options.resolving import reconnect_options

T = TypeVar("T")

# Beyond the errors of the server itself: it is too slow, it has too many (RFC 9110, RFC 6585).
_RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# No delay is doubled more often: it is longer than any maximum then.
_MAX_DOUBLINGS = 64


async def reconnect(
    uri: str, handler: Callable[[WebSocket], Awaitable[T]], **options: Unpack[ReconnectOptions]
) -> T:
    """Connect, run the handler, and do so again whenever the connection is lost.

    When the handler returns while the connection is open, or after it has closed it, that is the
    end: the connection is closed and the value returned. When the peer has ended the connection, or
    it was lost, the next attempt follows after a delay: exponential, with full jitter, so that many
    clients do not come back at once (RFC 6455 7.2.3). What else the handler raises is raised here,
    as it is.

    Args:
        uri: a ws or wss URI.
        handler: a coroutine function that takes a WebSocket; it is called for each connection.
        options: see ReconnectOptions.

    Returns:
        What the handler returned.

    Raises:
        InvalidURI, TypeError, ValueError: as connect().
        Exception: what an attempt has raised, if `process_exception` finds that it is of no use to
            try again; by default a certificate that is not trusted, a status such as 401, 403 or
            404, and what breaks the protocol.
        ConnectionClosed, OSError, HandshakeError: how the last of `max_attempts` ended.
    """
    check_handler(handler, "the WebSocket")
    async with reconnecting(uri, **options) as connections:
        while True:
            ws = await anext(connections)
            try:
                value = await handler(ws)
            except Exception as exc:
                if user_part(exc, ws._link) is not None:
                    raise
            else:
                if not ws._link.ended_by_peer():
                    return value


class reconnecting:
    """Connections to a server, one after the other, as an async context manager.

    `async for ws in connections` connects, and again at each further turn, after the delays of
    reconnect(); the connection of the turn before is closed. Leaving the context manager, however
    that happens, closes the last one: with 1000, with 1011 if the body raises, with 1001 if it is
    cancelled. Arguments and exceptions are those of reconnect().
    """

    def __init__(self, uri: str, **options: Unpack[ReconnectOptions]) -> None:
        self._connections = Connections(uri, reconnect_options(options))

    async def __aenter__(self) -> Connections:
        return self._connections

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connections.leave(exc)


class Connections(AsyncIterator[WebSocket]):
    """What reconnecting() gives: an endless iterator of connections."""

    def __init__(self, uri: str, options: ReconnectOptions) -> None:
        self._target = check_target(uri, options)
        self._options = options
        self._way = TCPWay(options)
        self._backoff = Backoff(options)
        self._ws: WebSocket | None = None

    async def __anext__(self) -> WebSocket:
        if self._ws is not None:
            self._backoff.ended(anyio.current_time(), self._ws._link.ending(EndOfMessages))
            await self.leave(None)
        while True:
            await self._wait()
            try:
                self._ws = await open_websocket(self._target, self._options, self._way)
            except Exception as exc:
                decide = self._options["process_exception"] or process_exception
                verdict = decide(exc)
                try:
                    if verdict is exc:
                        raise
                    if verdict is not None:
                        raise verdict from exc
                finally:
                    del verdict  # a frame that keeps what it raises keeps itself
                self._backoff.failed(exc)
            else:
                self._backoff.opened(anyio.current_time())
                return self._ws

    async def _wait(self) -> None:
        attempt = self._backoff.next_attempt(random.random())
        hook = self._options["on_attempt"]
        if hook is not None:
            answer = hook(attempt)
            if inspect.isawaitable(answer):
                await answer
        if attempt.exception is not None:
            self._options["logger"].info(
                "connecting to %s again in %.1f s: %s",
                self._target.host,
                attempt.delay,
                attempt.exception,
            )
        await anyio.sleep(attempt.delay)

    async def leave(self, exc: BaseException | None) -> None:
        """Close the connection that there is, as `exc` says."""
        ws, self._ws = self._ws, None
        if ws is not None:
            await leave(ws, exc)


class Backoff:
    """When to try again: no clock, no chance, only numbers."""

    def __init__(self, options: ReconnectOptions) -> None:
        self._initial_delay = options["initial_delay"]
        self._max_delay = options["max_delay"]
        self._stable_after = options["stable_after"]
        self._max_attempts = options["max_attempts"]
        self._attempts = 0  # in a row
        self._delays = 0  # in a row
        self._opened_at = 0.0
        self._exception: Exception | None = None

    def opened(self, now: float) -> None:
        """There is a connection."""
        self._opened_at = now

    def ended(self, now: float, exc: Exception) -> None:
        """The connection has ended."""
        if now - self._opened_at >= self._stable_after:
            self._attempts = self._delays = 0
        self._exception = exc

    def failed(self, exc: Exception) -> None:
        """The attempt has failed."""
        self._exception = exc

    def next_attempt(self, chance: float) -> Attempt:
        """The next attempt; `chance` is from 0 to 1.

        Raises:
            Exception: there have been enough of them; how the last one ended.
        """
        exc = self._exception
        if exc is not None and self._attempts == self._max_attempts:
            raise exc
        self._attempts += 1
        if exc is None:
            return Attempt(self._attempts, 0, None)
        doublings = min(self._delays, _MAX_DOUBLINGS)
        self._delays += 1
        delay = min(self._initial_delay * 2**doublings, self._max_delay) * chance
        # Where many are told the same, chance keeps them apart.
        delay += min(retry_after(exc), self._max_delay)
        return Attempt(self._attempts, delay, exc)


def process_exception(exc: Exception) -> Exception | None:
    """Whether it is of use to connect again after an exception; the default of reconnect().

    It is after an OSError, such as a connection that is refused or a name that is not found, but
    for a certificate that is not trusted; after a TimeoutError; after the statuses 408, 429 and 500
    to 599, of a server or a proxy; after an answer that ends or is not HTTP, and after a proxy that
    does not connect us.

    Args:
        exc: what an attempt has raised.

    Returns:
        None if it is, else the exception.
    """
    if isinstance(exc, InvalidStatus | InvalidProxyStatus):
        again = exc.response.status in _RETRIED_STATUSES
    elif isinstance(exc, InvalidProxy | ssl.SSLCertVerificationError):
        again = False
    else:
        again = isinstance(exc, OSError | InvalidMessage | ProxyError)
    return None if again else exc


def retry_after(exc: Exception) -> float:
    """The seconds that a server or a proxy asks to wait (RFC 9110 10.2.3); 0 if it does not."""
    if not isinstance(exc, InvalidStatus | InvalidProxyStatus):
        return 0
    headers = exc.response.headers
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdecimal():
        return float(value)  # infinite where it has hundreds of digits
    until = _timestamp(value)
    if until is None:
        return 0
    now = _timestamp(headers.get("Date", ""))
    return max(until - (time.time() if now is None else now), 0)


def _timestamp(text: str) -> float | None:
    """The time that an HTTP date means (RFC 9110 5.6.7); None if it is none."""
    try:
        date = parsedate_to_datetime(text)
    # Beside ValueError: numbers beyond C's, and parts that are not there.
    except (ValueError, OverflowError, LookupError, TypeError):
        return None
    # One that says that it is of no zone ("-0000") is of UTC.
    since = date.replace(tzinfo=date.tzinfo or UTC) - _EPOCH
    return since.total_seconds()
