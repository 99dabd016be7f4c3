"""WebSocket: what an application holds of one connection."""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any, Literal

import anyio
from anyio.abc import ObjectStream, SocketAttribute
from anyio.lowlevel import checkpoint

from creche.connection.callables import callable_name, check_async
from creche.connection.endpoint import Endpoint
from creche.connection.foreign_names import explain_names, own_names
from creche.connection.handlers import ConnectionTaskGroup
from creche.connection.link import Link
from creche.connection.streams import ReceiveStream, SendStream
from creche.connection.tracing import call_trace, frame_observer
from creche.engine.engine import Account
from creche.exceptions import EndOfMessages
from creche.handshake.http import Request, Response
from creche.options.checks import check_option
from creche.options.declared import ConnectionOptions
from creche.protocol.closing import Close, make_close
from creche.protocol.extensions import Extension
from creche.protocol.messages import plain_bytes
from creche.protocol.states import Side, State
from creche.transports.base import Transport

Handler = Callable[["WebSocket"], Awaitable[object]]


@explain_names
class WebSocket(Endpoint, ObjectStream[str | bytes]):
    """One end of an open connection.

    It is an anyio.abc.ObjectStream: str is a text message, bytes a binary one. connect() and
    serve() make it. One task at a time may receive; any number of tasks may send.

    Attributes:
        subprotocol: the subprotocol that was agreed on, or None (RFC 6455 1.9).
        request: the client's opening handshake.
        response: the server's opening handshake.
    """

    # As the attributes of a dict they would take 300 bytes.
    __slots__ = (
        "_attributes",
        "_base_logger",
        "_id",
        "_trace",
        "request",
        "response",
        "subprotocol",
    )

    def __init__(
        self,
        transport: Transport,
        account: Account,
        side: Side,
        options: ConnectionOptions,
        *,
        request: Request,
        response: Response,
        subprotocol: str | None = None,
        extensions: Sequence[Extension] = (),
        early_data: bytes = b"",
    ) -> None:
        """Take over a transport after the opening handshake, and begin to read.

        `early_data` came together with the opening handshake.
        """
        # Most of an idle connection's memory would be these.
        request.headers.pack()
        response.headers.pack()
        self.request = request
        self.response = response
        self.subprotocol = subprotocol
        self._base_logger = options["logger"]
        self._id: uuid.UUID | None = None
        self._attributes = transport.extra_attributes
        self._trace = options["trace"]
        self._link = Link(transport, account, side, options, extensions)
        self._link.connection.observer = frame_observer(self, self._base_logger, self._trace)
        self._link.start(early_data)

    def __dir__(self) -> list[str]:
        return own_names(super().__dir__())

    # What is known of the connection

    @property
    def id(self) -> uuid.UUID:
        """A name for this connection, for logs."""
        if self._id is None:
            self._id = uuid.uuid4()
        return self._id

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records name this connection: they have it as `record.websocket`, its id
        as `record.connection_id`, and the other end's address as `record.peer`."""
        return _Logger(self._base_logger, {"websocket": self})

    @property
    def state(self) -> str:
        """Where the connection stands (RFC 6455 7.1): "closing" when our close frame is sent and
        the peer's has not come, "closed" when neither side has anything left to say."""
        match self._link.connection.state:
            case State.OPEN | State.FAILING:  # messages from before it are still answered
                return "open"
            case State.CLOSING:
                return "closing"
            case _:
                return "closed"

    @property
    def remote_address(self) -> Any:
        """The other end's address: host and port, or the path of a Unix socket; None if the layer
        below does not tell."""
        return self.extra(SocketAttribute.remote_address, None)

    @property
    def local_address(self) -> Any:
        """Our own address, as `remote_address` has the other end's."""
        return self.extra(SocketAttribute.local_address, None)

    @property
    def close_code(self) -> int | None:
        """The close code (RFC 6455 7.1.5); None while the connection is open."""
        return (
            None if self._link.connection.outcome is None else self._link.ending(EndOfMessages).code
        )

    @property
    def close_reason(self) -> str | None:
        """The close reason (RFC 6455 7.1.6); None while the connection is open."""
        return (
            None
            if self._link.connection.outcome is None
            else self._link.ending(EndOfMessages).reason
        )

    @property
    def client_address(self) -> str | None:
        """The client's IP address, as `request.client_address` has it; None at the client."""
        return self.request.client_address

    @property
    def latency(self) -> float | None:
        """Seconds between the last answered ping and its pong; None before the first."""
        return self._link.connection.latency

    @property
    def buffered_amount(self) -> int:
        """Bytes that are committed and that the kernel has not taken yet."""
        return self._link.transport.waiting()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """AnyIO's typed attributes of the connection below."""
        return self._attributes

    def __repr__(self) -> str:
        connection = self._link.connection
        return f"<creche.WebSocket {connection.side.value} {self.id} {connection.state.value}>"

    # Messages in parts, and control frames

    def send_stream(self, *, text: bool = False) -> SendStream:
        """Send a message bit by bit, as an async context manager that gives a SendStream.

        For a message that does not fit into memory, or is not known yet. Other tasks wait with
        their messages until it is finished; pings go on.

        Args:
            text: whether it is text.
        """
        return SendStream(self, text)

    def receive_stream(self) -> ReceiveStream:
        """Receive a message bit by bit, as an async context manager that gives a ReceiveStream.

        For a message that does not fit into memory: `max_size` does not hold for it.
        """
        return ReceiveStream(self)

    async def flush(self) -> None:
        """Wait until the kernel has taken everything that was committed.

        Raises:
            ConnectionClosed: as `send`; what had not left is lost then.
        """
        await self._link.wait_until_written()

    async def ping(self, data: str | bytes | None = None) -> float:
        """Send a ping and wait for its pong (RFC 6455 5.5.2).

        Args:
            data: the payload, at most 125 bytes; made up if it is None.

        Returns:
            The seconds it took.

        Raises:
            ValueError: `data` is too long, or that of a ping without an answer yet.
            TypeError: `data` is neither str nor bytes.
            ConnectionClosed: as `send`.
        """
        return await self._link.ping(None if data is None else _control_payload(data))

    async def pong(self, data: str | bytes = b"") -> None:
        """Send a pong that nobody asked for (RFC 6455 5.5.3).

        Args:
            data: the payload, at most 125 bytes.

        Raises:
            ValueError: `data` is too long.
            TypeError: `data` is neither str nor bytes.
            ConnectionClosed: as `send`.
        """
        payload = _control_payload(data)
        await self._link.wait_for_room(within=True)
        self._link.connection.send_pong(payload)
        self._link.commit()

    def set_keepalive(self, ping_interval: float | None, ping_timeout: float | None = 20) -> None:
        """Ping otherwise from now on: a connection of a server need not be like the others.

        Args:
            ping_interval: seconds of silence after which the peer is pinged; None for never.
            ping_timeout: seconds in which a ping must be followed by a sign of life; None for ever.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        check_option("ping_interval", ping_interval)
        check_option("ping_timeout", ping_timeout)
        self._link.set_keepalive(ping_interval, ping_timeout)

    # Closing

    async def send_eof(self) -> None:
        """Close our direction: send close code 1000, but receive until the peer closes, too.

        Raises:
            ConnectionClosed: as `send`.
        """
        await checkpoint()
        self._link.check_sendable()
        self._link.begin_close(Close(1000))

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection: send a close frame, wait for the peer's (RFC 6455 7.1.2).

        Messages that were not received yet are dropped. It takes as long as the peer takes bytes
        of ours, and at most `close_timeout` after that. When it is cancelled, the connection is
        closed at once, without waiting. Any task of the event loop may call it.

        Args:
            code: the close code, one that may be sent (RFC 6455 7.4).
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: `code` may not be sent, or `reason` is too long.
            TypeError: they are not an int and a str.
            RuntimeError: this is another event loop than that of the connection.
        """
        await self._link.aclose(make_close(code, reason))

    async def wait_closed(self) -> None:
        """Wait until the connection has ended and its transport is closed, whoever ends it.

        It receives nothing. Where more arrives than is received, reading pauses, and an end behind
        that is not noticed: receive meanwhile, or run discard() beside it.
        """
        await self._link.wait_gone()

    def __del__(self) -> None:
        """Nobody has closed it, and nobody can any more: close it, whatever thread this is."""
        link = getattr(self, "_link", None)  # there is none where making it has failed
        if link is None or link.gone or link.closed_by_us:
            return
        text = f"unclosed connection {self!r}"
        if link.engine.is_over() or not link.engine.call_from_anywhere(link.drop):
            link.loop_ends()
        warnings.warn(text, ResourceWarning, source=self, stacklevel=2)  # it may be raised

    async def __aenter__(self) -> WebSocket:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Close; the body's own exception wins over a cancellation meanwhile."""
        trace = self._trace
        if trace is not None:
            call_trace(trace, self.logger, "connection.close.started", websocket=self)
        try:
            await self._link.leave(exc_val)
        except BaseException:
            if exc_val is None or isinstance(exc_val, anyio.get_cancelled_exc_class()):
                raise
        finally:
            del exc_val, exc_tb
            if trace is not None:
                call_trace(trace, self.logger, "connection.close.complete", websocket=self)

    # Handlers

    async def run(self, *handlers: Handler, until: Literal["first", "all"] = "first") -> None:
        """Run `handler(ws)` for each handler as a child of the connection.

        Args:
            handlers: coroutine functions.
            until: "first" cancels the others when one returns; "all" waits for every one.

        Raises:
            ConnectionClosedError: the connection was lost; the handlers were cancelled.
            ExceptionGroup: what handlers raised; the others were cancelled.
            TypeError: no handler, or one that is not a coroutine function.
            ValueError: another `until`.
        """
        if not handlers:
            raise TypeError("run() needs at least one handler")
        for handler in handlers:
            check_async(handler)
        if until not in ("first", "all"):
            raise ValueError(f'until must be "first" or "all", not {until!r}')
        async with self.create_task_group() as tg:

            async def run_one(handler: Handler) -> None:
                await handler(self)
                if until == "first":
                    tg.cancel_scope.cancel()

            for handler in handlers:
                tg.start_soon(run_one, handler, name=callable_name(handler))

    def create_task_group(self) -> ConnectionTaskGroup:
        """An AnyIO task group that is cancelled when the connection is lost.

        Its `async with` raises one ConnectionClosedError then, unless children have raised. When
        the peer closes well, its children are cancelled once `receive` has reported the end.
        """
        return ConnectionTaskGroup(self._link, self)


class _Logger(logging.LoggerAdapter[logging.Logger]):
    """Puts the connection's id before each message."""

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[object, MutableMapping[str, Any]]:
        msg, kwargs = super().process(msg, kwargs)
        ws: WebSocket = kwargs["extra"]["websocket"]
        peer = ws.client_address or ws.remote_address
        kwargs["extra"] = {"websocket": ws, "connection_id": str(ws.id), "peer": peer}
        return f"[{ws.id}] {msg}", kwargs


def _control_payload(data: object) -> bytes:
    if isinstance(data, str):
        return str.encode(data)
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(plain_bytes(data))
    raise TypeError(f"data must be str or bytes-like, not {type(data).__name__}")


async def discard(ws: WebSocket) -> None:
    """Receive messages and throw them away until the peer closes.

    A consumer for handlers that only send: `ws.run(producer, creche.discard)`.
    """
    async for _ in ws:
        pass
