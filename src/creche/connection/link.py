# cython: annotation_typing=False
"""Link: joins the protocol of one connection, its transport, and the tasks that wait for it.

Theory of operation
-------------------

`protocol.Connection` decides everything; a transport moves bytes; a Link lets tasks wait.

In: the transport hands bytes to `data_received`, which parses them at once, whoever is waiting for
what, so that control frames are answered and the end is noticed. Messages wait in the protocol's
inbox until a task takes them. When the inbox is full and more arrives, reading pauses. All of this
is in incoming.py.

Out: a sender appends a whole frame to the outbox and calls `commit`, in one synchronous step. Bytes
leave when the transport is flushed: at once for the first message after a wait or a pause,
otherwise at the end of the loop's turn, before the task waits for a message, or at 64 KiB. All of
this is in outgoing.py.

The end: whatever ends a connection is in ending.py, and what that has for consequences.

Invariants:

1. No application task ever waits for the wire: it waits for an event, and looks again when woken.
2. There is no await between looking and acting: a cancelled call has done nothing.
3. `_update` runs after everything that may have changed the protocol's state, and it alone draws
   the consequences: tasks are woken, handlers cancelled, the transport ended.
4. `gone` is true once the transport is closed.
"""

from __future__ import annotations

from collections.abc import Sequence

from creche.connection.ending import without
from creche.connection.incoming import Incoming
from creche.engine.buffers import COUNTED_FROM
from creche.engine.engine import Account, Event
from creche.exceptions import PeerHasClosed
from creche.options.declared import ConnectionOptions
from creche.protocol.connection import Connection
from creche.protocol.extensions import Extension
from creche.protocol.pings import Ping
from creche.protocol.states import Side
from creche.transports.base import Transport

# So many payloads are counted once for all connections that keep them.
_SHARED_PAYLOADS = 32


class Link(Incoming):
    """One connection and who waits for it. It knows nothing of the WebSocket in front of it."""

    def __init__(
        self,
        transport: Transport,
        account: Account,
        side: Side,
        options: ConnectionOptions,
        extensions: Sequence[Extension] = (),
    ) -> None:
        connection = Connection(
            side,
            transport.outbox,
            account.engine.now(),
            max_size=options["max_size"],
            max_fragments=options["max_fragments"],
            max_queue=options["max_queue"],
            max_queue_bytes=options["max_queue_bytes"],
            write_limit=options["write_limit"],
            ping_interval=options["ping_interval"],
            ping_timeout=options["ping_timeout"],
            stall_timeout=options["stall_timeout"],
            close_timeout=options["close_timeout"],
            linger_timeout=options["linger_timeout"],
            message_timeout=options["message_timeout"],
            extensions=extensions,
        )
        connection.timers.ping_sooner(account.engine.next_phase())
        super().__init__(transport, account, connection, options["write_limit"])
        self._pingers: tuple[tuple[Ping, Event], ...] = ()

    def start(self, early_data: bytes) -> None:
        """Begin to read. `early_data` came together with the opening handshake."""
        self.engine.residents.add(self)
        self.transport.start(self.engine, self)
        if early_data:
            self.data_received(bytearray(early_data), len(early_data))

    # Pinging

    async def ping(self, payload: bytes | None) -> float:
        """Send a ping and wait for its pong; the seconds it took."""
        await self.wait_for_room(within=True)
        ping = self.connection.send_ping(payload, self._now())
        self.commit()
        self._reschedule()
        pinger = ping, pong = ping, self.engine.new_event()
        self._pingers += (pinger,)
        try:
            await pong.wait()
        finally:
            self._pingers = without(pinger, self._pingers)
            self.connection.forget_ping(ping)
        if ping.latency is None:
            raise self.ending(PeerHasClosed)
        return ping.latency

    def set_keepalive(self, ping_interval: float | None, ping_timeout: float | None) -> None:
        """Ping otherwise from now on."""
        self.connection.set_keepalive(self._now(), ping_interval, ping_timeout)
        self._reschedule()

    def _wake_pingers(self) -> None:
        answered = self.connection.take_answered()
        for ping, pong in self._pingers:
            if ping in answered:
                pong.set()

    # Waking and counting

    def _wake_all(self) -> None:
        """Let everyone look again for whom waiting has no point any more."""
        if self.closed_by_us or self.connection.ended:
            self._arrival.wake()
        if not self.is_open():
            for sender in self._senders:
                sender.woken.set()
            for written in self._flushers:
                written.set()
        if self.closed_by_us or self.connection.outcome is not None:
            for _, pong in self._pingers:
                pong.set()

    def _count(self) -> None:
        """What we keep has changed."""
        transport = self.transport
        own = self.connection.kept() + len(transport.outbox)
        if self._paused or transport.kept_size or transport.outbox:
            own += transport.kept_below()
        if own >= COUNTED_FROM or transport.kept_size or self._counted:
            payloads = transport.payloads(_SHARED_PAYLOADS)
            if not payloads:
                own += transport.kept_size  # too many to look at all of them each time
            self._counted = self.account.buffers.count(self, own, payloads)
