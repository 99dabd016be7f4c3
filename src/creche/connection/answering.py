"""The server's side of the opening handshake over a transport: answering.

Reading the request and answering it are steps that the transport calls. A task is needed only where
an application decides: by a hook, or by a handler that takes the request.
"""

from __future__ import annotations

import copy
import enum
import inspect
import math
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from anyio.abc import SocketAttribute

from creche.connection.websocket import WebSocket
from creche.engine.deadlines import NEVER, Timer
from creche.engine.engine import Account
from creche.handshake.exceptions import HandshakeError, InvalidMessage, Rejection
from creche.handshake.forwarding import UNIX, UNKNOWN, find_client
from creche.handshake.headers import Headers, HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.rules import check_switching
from creche.handshake.server import OURS, ServerHandshake, offered_subprotocols, reject
from creche.options.declared import ServerHandshakeOptions
from creche.protocol.states import Side
from creche.transports.base import Receiver, Transport

# A refused client is given so long, and may send so much more, before the connection is closed:
# closing it with unread input would destroy our answer on its way.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 2**16

_AF_UNIX = getattr(socket, "AF_UNIX", None)

# By these options an application decides about an opening handshake.
HOOKS = ("process_request", "select_subprotocol", "process_response")


class Answerer(Protocol):
    """On whose behalf a client is answered."""

    __slots__ = ()

    def check_open(self, request: Request) -> None:
        """Raise a Rejection if nobody is let in any more, or this client asks too often."""

    def asked(self, request: Request) -> None:
        """Decide about a request: now, or in a task. May raise what `accept_now` raises."""

    def admit(self) -> None:
        """Count a client in, or raise a Rejection if there are too many."""

    def failed(self, exc: Exception) -> None:
        """Nothing has come of the opening handshake, without a task."""

    def gone(self) -> None:
        """The transport has been closed, and nothing came of the opening handshake."""


class _Stage(enum.Enum):
    READING = enum.auto()
    DECIDING = enum.auto()
    REFUSING = enum.auto()
    LINGERING = enum.auto()  # until the client has read a refusal
    OVER = enum.auto()  # the transport is closed, or a WebSocket's


class Answering(Receiver):
    """Reads a request, and answers it.

    Args:
        transport: where the client is.
        account: what the connection is counted in.
        options: the server's.
        answerer: what decides.

    Attributes:
        request: what the client asks for, once that is known.

    Each method that answers raises:
        Rejection: the request was refused, and the client is being told why.
        HandshakeError, OSError: the client has gone, or nothing can begin on its connection, which
            is closed.
    """

    def __init__(
        self,
        transport: Transport,
        account: Account,
        options: ServerHandshakeOptions,
        answerer: Answerer,
    ) -> None:
        self._transport = transport
        self._account = account
        self._options = options
        self._answerer = answerer
        self._handshake = ServerHandshake(
            origins=options["origins"],
            subprotocols=options["subprotocols"],
            require_subprotocol=options["require_subprotocol"],
            extensions=options["extensions"],
            hosts=options["hosts"],
            max_header_bytes=options["max_header_bytes"],
        )
        self.request: Request | None = None
        self._stage = _Stage.READING
        self._left = _LINGER_BYTES
        self._untaken = math.inf  # what the client had not taken of a refusal when we looked last
        self._patience = _LINGER_SECONDS  # until it must have taken more
        self._error: Exception | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to read."""
        self._transport.start(self._account.engine, self)

    def look(self) -> None:
        """Read what has arrived, if the client has not asked yet."""
        if self._stage is _Stage.READING:
            self._transport.read_now()

    def is_refusing(self) -> bool:
        """Whether the client has been refused, and the transport is not closed yet."""
        return self._stage in (_Stage.REFUSING, _Stage.LINGERING)

    # What the transport reports

    def data_received(self, data: bytearray, size: int) -> None:
        if self._stage is _Stage.READING:
            self._read(bytes(memoryview(data)[:size]))
        else:
            self._left -= size
            if self._left <= 0:
                self.close()

    def _read(self, data: bytes) -> None:
        answerer = self._answerer
        try:
            request = self._handshake.receive_data(data)
            if request is None:
                return
            request.extra_attributes = self._transport.extra_attributes
            request.find_client = _client_finder(tuple(self._options["trusted_proxies"]))
            self.request = request
            answerer.check_open(request)
            self._handshake.check_host(request)
            self._stage = _Stage.DECIDING
            answerer.asked(request)
            if self._stage is _Stage.DECIDING:
                self._transport.pause_reading()
        except Rejection as refusal:
            answerer.failed(refusal)
            self._refuse(refusal.response)
        except Exception as exc:
            if not isinstance(exc, OSError | HandshakeError):
                self._options["logger"].exception("a connection failed; please report it")
            self._lost(exc)

    def eof_received(self) -> None:
        if self._stage is _Stage.READING:
            self._lost(InvalidMessage("the client closed the connection before it asked"))
        else:
            self.close()

    def output_left(self) -> None:
        if self._stage is _Stage.REFUSING and not self._transport.waiting():
            self._written()

    def read_failed(self, exc: Exception) -> None:
        if self._stage is _Stage.DECIDING:
            self._error = exc
        elif self._stage is _Stage.READING:
            self._lost(exc)
        else:
            self.close()

    def write_failed(self, exc: Exception) -> None:
        self._error = exc
        if self._stage is _Stage.REFUSING:
            self.close()

    def _lost(self, exc: Exception) -> None:
        self._answerer.failed(exc)
        self.close()

    # Accepting

    def accept_now(self, request: Request) -> WebSocket:
        """Answer by the options, where the application has no say."""
        self._handshake.check(request)
        response = self._respond(request, self._handshake.choose_subprotocol(request))
        return self._open(request, response)

    async def decide(self, request: Request) -> WebSocket:
        """Answer by the options and the application's hooks."""
        await self.process(request)
        return await self.accept(request)

    async def process(self, request: Request) -> None:
        """Let `process_request` refuse the request."""
        try:
            answer = await self._call("process_request", Response, request)
            if answer is not None:
                raise Rejection(answer)
        except Rejection as refusal:
            self._refuse(refusal.response)
            raise

    async def accept(
        self, request: Request, subprotocol: str | None = OURS, headers: HeadersLike = ()
    ) -> WebSocket:
        """Answer 101, with further header fields perhaps, if the request asks for a WebSocket."""
        try:
            self._handshake.check(request)
            chosen = await self._choose_subprotocol(request)
            response = self._respond(request, chosen if subprotocol is OURS else subprotocol)
            for name, value in Headers(headers).fields if headers else ():
                response.headers.add(name, value)
            response = await self._call("process_response", Response, request, response) or response
            if response.status != 101:
                raise Rejection(response)
            try:
                check_switching(response.headers)
            except ValueError:
                raise self._failed() from None
            return self._open(request, response)
        except Rejection as refusal:
            self._refuse(refusal.response)
            raise

    async def _choose_subprotocol(self, request: Request) -> str | None:
        if self._options["select_subprotocol"] is None:
            return self._handshake.choose_subprotocol(request)
        chosen: str | None = await self._call(
            "select_subprotocol", str, request, offered_subprotocols(request)
        )
        return chosen

    def _respond(self, request: Request, subprotocol: str | None) -> Response:
        try:
            return self._handshake.accept(request, subprotocol)
        except ValueError:
            raise self._failed() from None

    def _open(self, request: Request, response: Response) -> WebSocket:
        """Send the answer 101; the transport is the WebSocket's from now on."""
        handshake, transport = self._handshake, self._transport
        handshake.agreed(response)
        self._check_there()
        self._answerer.admit()
        try:
            transport.outbox += self._bytes(response)
            transport.flush()
            if self._error is not None:
                raise self._error
            ws = WebSocket(
                transport,
                self._account,
                Side.SERVER,
                self._options,
                request=request,
                response=response,
                subprotocol=handshake.subprotocol,
                extensions=handshake.extensions,
                early_data=handshake.trailing_data,
            )
        except BaseException:
            self.close()
            raise
        self._stage = _Stage.OVER
        return ws

    def _check_there(self) -> None:
        """Whoever decides may do so when the client was sent away long since."""
        if self._transport.closed:
            raise ConnectionAbortedError("the client has gone")
        if self.is_refusing():
            raise ConnectionAbortedError("the client was refused meanwhile")

    # Refusing

    def refuse(self, response: Response) -> None:
        """Answer otherwise, and close the connection once the client has read that.

        Raises:
            OSError: the client has gone.
        """
        self._check_there()
        self._refuse(response)
        if self._error is not None:
            raise self._error

    def _refuse(self, response: Response) -> None:
        if self._transport.closed or self.is_refusing():
            return
        self._stage = _Stage.REFUSING
        self._transport.pause_reading()
        self._transport.outbox += self._bytes(response)
        self._transport.flush()
        self.output_left()
        seconds = self._options["open_timeout"]
        if self._stage is _Stage.REFUSING and seconds is not None:
            self._be_patient(seconds)

    def _written(self) -> None:
        """The layer below has all of a refusal."""
        self._stage = _Stage.LINGERING
        self._transport.send_eof()
        self._untaken = self._transport.unsent() + 1
        self._be_patient(_LINGER_SECONDS)
        self._transport.resume_reading()

    def _be_patient(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._patience = seconds
        engine = self._account.engine
        self._timer = engine.schedule(self, engine.now() + seconds)

    def timeout_due(self, now: float) -> float:
        """The client was given time to read a refusal; as long as it does, it gets more."""
        untaken = self._transport.waiting() + self._transport.unsent()
        if 0 < untaken < self._untaken:
            self._untaken = untaken
            return now + self._patience
        self.close()
        return NEVER

    def close(self) -> None:
        """Close the transport at once, unless it is a WebSocket's. May be called twice."""
        if self._stage is not _Stage.OVER:
            self._stage = _Stage.OVER
            if self._timer is not None:
                self._timer.cancel()
            self._transport.close()
            self._answerer.gone()

    # The application

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
            if isinstance(answer, Response) and answer is not args[-1]:
                return copy.copy(answer)
        except Exception:
            raise self._failed() from None
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
