"""Server: accepting clients, and stopping."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from typing import Any

import anyio
from anyio import TaskHandle
from anyio.abc import ByteStream, Listener, TaskGroup

from creche.connection.websocket import Handler, WebSocket
from creche.engine.engine import Account
from creche.handshake.server import is_loopback, is_on_loopback
from creche.options.checks import check_delay
from creche.options.declared import ServerOptions
from creche.protocol.closing import Close, make_close
from creche.server.deciding import DecidingHandler
from creche.server.register import Guest, Register, current_handlers
from creche.server.stats import ServerStats
from creche.server.stream_visitor import StreamVisitor
from creche.server.visitor import Visitor
from creche.transports.accepting import Acceptor, accept_streams
from creche.transports.listening import listener_address, listening_address
from creche.transports.sockets import shown_path

# While there are as many handshakes as may be, clients are accepted with so many seconds between
# them: then each has a time for its handshake before it is the oldest.
_CROWDED_PAUSE = 0.002

# Clients that have not asked for anything yet when the server begins to drain have so many seconds
# to do so, which are enough to be told that it stops.
_ASKING_SECONDS = 1.0

# Close frames that are spread over a time are sent together where less is between them.
_SHORTEST_PAUSE = 0.001


# A close frame, the seconds that handlers have after it, and those over which it is sent.
_Orders = tuple[Close, float, float]


def _checked(code: int, reason: str, grace: float, spread: float) -> _Orders:
    close = make_close(code, reason)
    check_delay("grace", grace)
    check_delay("spread", spread)
    return close, grace, spread


class Server:
    """A running server.

    Attributes:
        addresses: where it listens: (host, port), or the path of a Unix socket.
        url: a URI to connect to the first of them.
        connections: the open WebSockets.
        draining: whether it has stopped accepting.
    """

    def __init__(
        self,
        handler: Handler | DecidingHandler,
        options: ServerOptions,
        account: Account,
        tasks: TaskGroup,
        sockets: Sequence[socket.socket],
        host: str | None,
    ) -> None:
        self.addresses: list[Any] = [listening_address(sock) for sock in sockets]
        self._register = Register(handler, options, account, self._start_task)
        self._account = account
        self._tasks = tasks
        self._context = copy_context()  # what handlers see
        self._options = options
        self._host = host
        self._stopped = account.engine.new_event()
        self._failure: OSError | None = None
        self._accepting = anyio.CancelScope()  # from listeners
        self._acceptors = [
            Acceptor(
                sock,
                account.engine,
                self._add_socket,
                self._accepting_failed,
                self._register.warn,
            )
            for sock in sockets
        ]
        for acceptor in self._acceptors:
            acceptor.start()
        if sockets:
            options["logger"].info("listening at %s", ", ".join(self._places()))

    def _places(self) -> list[str]:
        """Where it listens, for people."""
        paths = [address for address in self.addresses if not isinstance(address, tuple)]
        on_tcp = len(paths) < len(self.addresses)
        return [*([self.url] if on_tcp else []), *map(shown_path, paths)]

    @property
    def connections(self) -> set[WebSocket]:
        return self._register.connections

    @property
    def draining(self) -> bool:
        return self._register.draining

    @property
    def url(self) -> str:
        """A URI that connects to the first address, by the host that was given where clients may
        ask for it; ws://localhost/ for a Unix socket."""
        scheme = "ws" if self._options["ssl"] is None else "wss"
        address = self.addresses[0] if self.addresses else None
        if not isinstance(address, tuple):
            return f"{scheme}://localhost/"
        host = self._host_for_clients(address[0])
        if ":" in host:
            host = f"[{host.replace('%', '%25')}]"  # RFC 6874 2
        return f"{scheme}://{host}:{address[1]}/"

    def _host_for_clients(self, address: str) -> str:
        """The host by which clients reach what listens at this address, and may ask for it."""
        everywhere = address in ("0.0.0.0", "::")
        if everywhere or not self._host:
            if not (everywhere or is_loopback(address)):
                return address
            # localhost may be an address of IPv4 alone.
            with_ipv4 = any("." in each[0] for each in self.addresses if isinstance(each, tuple))
            return "localhost" if with_ipv4 else "::1"
        # The resolver knows other names and numbers of loopback than we, such as "127.1".
        name = self._host.lower().rstrip(".")
        refused = self._options["hosts"] == "loopback" and not is_on_loopback(name)
        return address if refused else self._host

    @property
    def stats(self) -> ServerStats:
        """Counts, for a monitor; it costs the same however many connections there are."""
        return self._register.stats()

    def __repr__(self) -> str:
        return f"<creche.Server {self.url} {len(self.connections)} connections>"

    # Stopping

    async def shutdown(
        self, code: int = 1001, reason: str = "", grace: float = 10, spread: float = 0
    ) -> None:
        """Stop accepting, close every connection, and stop.

        Every peer is sent a close frame, at once or one after the other; handlers see the end of
        the stream. Opening handshakes under way are dropped. Handlers that are not done after
        `grace` seconds are cancelled; cancelling shutdown() cancels them now. A handler in which it
        is called, or a task that a handler has started, is not waited for.

        Args:
            code: the close code to send.
            reason: at most 123 bytes of UTF-8.
            grace: seconds that the handlers have, after the last close frame.
            spread: seconds over which the close frames are spread, so that not all clients connect
                elsewhere at once.

        Raises:
            ValueError, TypeError: an argument is not what it should be; nothing has been closed
                then.
        """
        await self._shutdown(_checked(code, reason, grace, spread), current_handlers())

    def begin_shutdown(
        self, code: int = 1001, reason: str = "", grace: float = 10, spread: float = 0
    ) -> None:
        """Begin what shutdown() does, and wait for nothing: serve() returns when it is done.

        Arguments and exceptions are those of shutdown().
        """
        orders = _checked(code, reason, grace, spread)
        if not self._stopped.is_set():
            self._start_task(self._shutdown, orders, frozenset())

    async def _shutdown(self, orders: _Orders, spared: frozenset[Guest]) -> None:
        close, grace, spread = orders
        try:
            self._stop_accepting()
            for guest in set(self._register.opening) - spared:
                guest.cancel()
            links = list(self._register.links)
            start = anyio.current_time()
            for number, link in enumerate(links):
                pause = start + spread * number / len(links) - anyio.current_time()
                if pause >= _SHORTEST_PAUSE:
                    await anyio.sleep(pause)
                if link in self._register.links:
                    link.begin_close(close)
            with anyio.move_on_after(grace):
                await self._register.wait_idle(spared)
        finally:
            try:
                await self._cancel_clients(spared)
            finally:
                self._stopped.set()

    async def drain(self) -> None:
        """Stop accepting, keep what is open; stop when all connections have ended.

        Until then shutdown() may end it. A handler in which it is called is not waited for.
        """
        self._stop_accepting()
        deadline = self._account.engine.now() + _ASKING_SECONDS
        for guest in list(self._register.opening):
            guest.hasten(deadline)
        await self._register.wait_idle(current_handlers())
        self._stopped.set()

    async def wait_stopped(self) -> None:
        """Return when the server has been shut down.

        Raises:
            OSError: a listening socket broke.
        """
        await self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    def _stop_accepting(self) -> None:
        self._register.draining = True
        self._accepting.cancel()
        for acceptor in self._acceptors:
            acceptor.close()

    async def _cancel_clients(self, spared: frozenset[Guest] = frozenset()) -> None:
        """Cancel every other handler; each connection closes within its bound."""
        for guest in self._register.guests - spared:
            guest.cancel()
        with anyio.CancelScope(shield=True):
            await self._register.wait_idle(spared)

    async def stop_now(self) -> None:
        """Stop accepting and cancel everything."""
        try:
            self._stop_accepting()
            await self._cancel_clients()
        finally:
            for link in list(self._register.links):  # pragma: no cover - cut off by a signal
                link.abort("the server was stopped")
            self._stopped.set()

    # Connections

    def add_listener(self, listener: Listener[ByteStream]) -> None:
        """Accept connections from a listener of AnyIO."""
        self.addresses.append(listener_address(listener))
        self._tasks.start_soon(self._accept_streams, listener)

    async def _accept_streams(self, listener: Listener[ByteStream]) -> None:
        try:
            with self._accepting:
                await accept_streams(listener, self._add_stream, self._tasks, self._register.warn)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            self._accepting_failed(exc)

    def _accepting_failed(self, exc: Exception) -> None:
        if not self.draining:
            why = str(exc) or type(exc).__name__
            self._options["logger"].error("accepting failed: %s", why)
            self._failure = OSError(f"accepting failed: {why}")
            self._stopped.set()

    def _add_socket(self, sock: socket.socket, peer: Any) -> float | None:
        Visitor(self._register).arrive(sock, peer)
        return _CROWDED_PAUSE if self._register.is_crowded() else None

    async def _add_stream(self, stream: ByteStream) -> None:
        await StreamVisitor(self._register).stay(stream)

    def _start_task(
        self, function: Callable[..., Coroutine[Any, Any, None]], /, *args: Any
    ) -> TaskHandle[None]:
        """Start a child of the server's, outside of any task perhaps."""
        return self._account.engine.start_in(self._tasks, self._context, function, *args)
