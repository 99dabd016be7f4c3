"""Register: who is at a server, and what it counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

import anyio
from anyio import TaskHandle

from creche.connection.answering import HOOKS
from creche.connection.link import Link
from creche.connection.tracing import call_trace
from creche.connection.websocket import Handler, WebSocket
from creche.engine.engine import Account, Event
from creche.handshake.exceptions import Rejection
from creche.options.declared import ServerOptions
from creche.protocol.escaping import escape
from creche.server.deciding import DecidingHandler
from creche.server.limits import ClientLimits
from creche.server.stats import ServerStats
from creche.transports.accepting import RareWarning
from creche.transports.tls import tls_buffer

# Of what our options refuse these are told: an origin or a host that is not allowed. The page's
# author sees no more of it than that there is no connection.
_TOLD = (403, 421)

# Whoever waits for guests checks so often, in seconds, that they are still there.
_CHECK_SECONDS = 1.0


class Guest(Protocol):
    """A client, from its first byte to its last."""

    def cancel(self) -> None:
        """End its time here."""

    def hasten(self, deadline: float) -> None:
        """Leave by then, unless it asks for something before."""

    def drop(self) -> bool:
        """As `cancel`, where there are too many; returns whether it has not been refused before."""

    def check(self) -> None:
        """Leave, if its task has ended without that: a signal may strike anywhere."""


# Whose handlers the current task descends from: none of them is waited for in it.
_handlers: ContextVar[tuple[Guest, ...]] = ContextVar("creche_handlers", default=())


def note_handler(guest: Guest) -> None:
    """The current task is the handler of this guest from now on."""
    _handlers.set((*_handlers.get(), guest))


def current_handlers() -> frozenset[Guest]:
    """The guests, of any server, in whose handlers the current task is."""
    return frozenset(_handlers.get())


class Register:
    """What a server shares with the visitors that it serves.

    Args:
        handler: what runs for each connection.
        options: the server's.
        account: what its connections are counted in.
        start_task: starts a coroutine function as a child of the server.

    Attributes:
        asks_application: whether the application decides about opening handshakes.
        tls_buffer: what all its connections receive encrypted bytes in.
        connections: the open WebSockets.
        links: theirs.
        guests: all clients.
        opening: those that shake hands, the oldest first.
        admitted: how many have been let in by `max_connections`.
        draining: whether the server has stopped accepting.
        failed: how many handlers have raised.
    """

    def __init__(
        self,
        handler: Handler | DecidingHandler,
        options: ServerOptions,
        account: Account,
        start_task: Callable[..., TaskHandle[None]],
    ) -> None:
        self.handler = handler
        self.options = options
        self.account = account
        self.start_task = start_task
        self.asks_application = isinstance(handler, DecidingHandler) or any(
            options[hook] is not None  # type: ignore[literal-required]
            for hook in HOOKS
        )
        self.tls_buffer = tls_buffer()
        self.logger = options["logger"]
        self.limits = ClientLimits(options["max_connections_per_client"], options["handshake_rate"])
        self.warn = RareWarning(self.logger, account.engine.now)
        self._warn_of_refusal = RareWarning(self.logger, account.engine.now)
        self.connections: set[WebSocket] = set()
        self.links: set[Link] = set()
        self.guests: set[Guest] = set()
        self.opening: dict[Guest, None] = {}
        self.admitted = 0
        self.draining = False
        self.failed = 0
        # Set when guests have gone and so few are left that somebody may be content.
        self._idle: Event | None = None
        self._most_spared = 0
        # In whose handlers somebody waits for the end of the others.
        self._waiting: Counter[Guest] = Counter()
        self._accepted = 0
        self._opened = 0
        self._refusals = 0
        self._statuses: Counter[int] = Counter()
        self._codes: Counter[int] = Counter()

    def arrives(self, guest: Guest) -> None:
        """One more handshake is under way; where there are too many, the oldest is dropped."""
        self._accepted += 1
        self.guests.add(guest)
        self.opening[guest] = None
        limit = self.options["max_handshakes"]
        if limit is not None and len(self.opening) > limit:
            oldest = next(iter(self.opening))
            del self.opening[oldest]
            self._refusals += oldest.drop()
            self.warn("more than max_handshakes=%d: the oldest are dropped", limit)

    def is_crowded(self) -> bool:
        """Whether as many handshakes are under way as may be."""
        return len(self.opening) == self.options["max_handshakes"]

    def has_opened(self, guest: Guest, ws: WebSocket) -> None:
        """Its opening handshake has succeeded."""
        self.opening.pop(guest, None)
        self._opened += 1
        self.connections.add(ws)
        self.links.add(ws._link)

    def refused(self, exc: Exception, client: str | None) -> None:
        """An opening handshake has failed.

        Args:
            exc: why.
            client: its address, where it is known.
        """
        self._refusals += 1
        if isinstance(exc, Rejection):
            status = exc.response.status
            self._statuses[status] += 1
            if exc.why and status in _TOLD:
                self._warn_of_refusal("refused %s: %s", client or "a client", escape(exc.why))
        self.logger.debug("opening handshake failed: %s", exc)
        self.tell("connection.open.failed", exception=exc)

    def ends(self, ws: WebSocket, code: int) -> None:
        """A connection has ended, with this close code."""
        self.connections.discard(ws)
        self.links.discard(ws._link)
        self._codes[code] += 1

    def leaves(self, guest: Guest) -> None:
        """A client has gone."""
        self.opening.pop(guest, None)
        self.guests.discard(guest)
        if self._idle is not None and len(self.guests) <= self._most_spared:
            self._idle.set()

    async def wait_idle(self, spared: frozenset[Guest] = frozenset()) -> None:
        """Return when there is no guest but those that are `spared`; any number of tasks may
        wait. Those in whose handlers somebody waits do not wait for each other."""
        self._waiting.update(spared)
        self._most_spared = max(self._most_spared, len(self._waiting))
        if self._idle is not None:
            self._idle.set()  # for who waits for these already
        try:
            while not self.guests <= (spared and self._waiting.keys()):
                if self._idle is None or self._idle.is_set():
                    self._idle = self.account.engine.new_event()
                with anyio.move_on_after(_CHECK_SECONDS):
                    await self._idle.wait()
                    continue
                for guest in self.guests - spared:
                    guest.check()
        finally:
            self._waiting -= Counter(spared)

    def tell(self, event: str, **info: Any) -> None:
        """Tell the trace callback."""
        call_trace(self.options["trace"], self.logger, event, **info)

    def stats(self) -> ServerStats:
        """What there is and has been."""
        traffic = self.account.traffic
        return ServerStats(
            open=len(self.connections),
            handshakes=len(self.opening),
            accepted=self._accepted,
            opened=self._opened,
            refused=self._refusals,
            refused_by_status=dict(self._statuses),
            closed_by_code=dict(self._codes),
            failed=self.failed,
            messages_received=traffic.messages_received,
            messages_sent=traffic.messages_sent,
            bytes_received=traffic.bytes_received,
            bytes_sent=traffic.bytes_sent,
            skipped=traffic.skipped,
            buffered=self.account.buffers.total,
        )
