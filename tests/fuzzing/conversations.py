"""The target that is two ends of creche, which hold a conversation."""

from __future__ import annotations

from typing import Any

from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.extensions import agree_on, choose_from, format_offers
from creche.protocol.closing import POLICY_VIOLATION, make_close
from creche.protocol.connection import Connection
from creche.protocol.extensions import Extension
from creche.protocol.frames import CONTINUATION
from creche.protocol.messages import encode_message, message_opcode
from creche.protocol.prepared import PreparedMessage
from creche.protocol.states import Side, State


class Peer:
    """One of two ends of a conversation."""

    def __init__(self, side: Side, extensions: list[Extension]) -> None:
        self.connection = Connection(side, bytearray(), 0, extensions=extensions, max_queue=3)
        self.wire = bytearray()  # what it wrote and the other end has not got yet
        self.delivered = 0
        self.sent: list[str | bytes] = []
        self.taken: list[str | bytes] = []
        self.parts: list[str | bytes] = []
        self.discarding = False

    def send(self, how: int, size: int) -> None:
        """A message of some size, in one of the ways to send one."""
        connection = self.connection
        if not connection.can_send:
            return
        message: str | bytes = "é☃"[size % 2] * size if how % 2 else bytes([size]) * (10 * size)
        given: Any = message
        if isinstance(message, bytes):
            given = [message, bytearray(message), memoryview(message * 2)[::2]][size % 3]
            message = bytes(given)
        opcode, payload = message_opcode(given), encode_message(given)
        if how < 2:
            connection.send_message(opcode, payload)
        elif how < 4:
            prepared = PreparedMessage(given)
            encoded = prepared.encode_for(connection.extensions)
            assert encoded is not None
            connection.send_frame(encoded[0], encoded[1])
        else:
            connection.send_frame(opcode, payload[: size // 2], fin=False)
            connection.send_frame(CONTINUATION, payload[size // 2 :])
        self.sent.append(message)

    def control(self, kind: str, argument: int, now: float) -> None:
        connection = self.connection
        if not connection.can_send:
            return
        try:
            if kind == "ping":
                ping = connection.send_ping(None if argument % 2 else bytes(argument), now)
                if argument % 4 == 0:
                    connection.forget_ping(ping)
            elif kind == "pong":
                connection.send_pong(bytes(argument))
            else:
                connection.send_close(make_close(900 + 20 * argument, "é" * (argument % 70)), now)
        except ValueError as exc:
            str(exc)

    def deliver(self, other: Peer, size: int, now: float) -> None:
        """Some of what this end wrote gets to the other, if that reads."""
        self.wire += self.connection.outbox
        self.connection.outbox.clear()
        while other.connection.must_continue:  # others have had their turn
            other.connection.resume(now)
        if other.connection.must_pause():
            return
        piece = bytes(self.wire[:size])
        del self.wire[:size]
        self.delivered += len(piece)
        if piece and other.connection.state is not State.LOST:
            other.connection.receive_data(piece, now)
        self.connection.output_left()

    def take(self, in_parts: bool, now: float) -> None:
        """What there is of a message, or all of it, if it is not being taken in parts already."""
        if in_parts or self.parts:
            part = self.connection.next_part(now)
            if part is not None:
                self.parts.append(part[0])
                if part[1]:
                    self.taken.append(type(part[0])().join(self.parts))  # type: ignore[arg-type]
                    self.parts.clear()
        else:
            message = self.connection.next_message(now)
            if message is not None:
                self.taken.append(message)
        self.connection.resume(now)
        for answered in self.connection.take_answered():
            assert answered.latency is not None


OPERATIONS = (
    *("binary", "text", "prepared-binary", "prepared-text", "binary-fragments", "text-fragments"),
    *("ping", "pong", "close", "deliver", "deliver-all", "take", "wait", "discard", "keepalive"),
    "end",
)


def fuzz_conversation(data: bytes) -> None:
    """Two ends; of each two bytes the first says what which one does, and the second how much."""
    factory = [PerMessageDeflate(threshold=20)]
    answer, chosen = choose_from(factory, format_offers(factory))
    client, server = Peer(Side.CLIENT, agree_on(factory, answer)), Peer(Side.SERVER, chosen)
    now = 0.0
    for what, argument in zip(data[::2], data[1::2], strict=False):
        peer, other = (client, server) if what & 1 else (server, client)
        connection = peer.connection
        number = what >> 1 & 15
        match OPERATIONS[number]:
            case "ping" | "pong" | "close" as kind:
                peer.control(kind, argument, now)
            case "deliver":
                peer.deliver(other, argument, now)
            case "deliver-all":
                peer.deliver(other, 2**14, now)
            case "take":
                peer.take(argument % 2 == 0, now)
            case "wait":
                now += argument / 4
                in_flight = len(connection.outbox) + len(peer.wire)
                if connection.outbox and not connection.timers.is_watching_output():
                    connection.timers.output_waits(now, peer.delivered)
                connection.handle_timeout(now, peer.delivered, in_flight)
                assert connection.next_timeout > now
            case "discard":
                connection.discard_input()
                peer.discarding = True
            case "keepalive":
                connection.timers.set_keepalive(now, (argument + 1) / 10, argument / 20 or None)
                connection.timers.set_paused(connection.must_pause(), now)
            case "end" if argument % 2:
                connection.lose("lost")
            case "end":
                connection.receive_eof()
            case _:
                peer.send(number, argument)
        for one, far in (client, server), (server, client):
            failure = one.connection.failure
            # Nobody breaks the protocol, but a message may take too long.
            assert failure is None or failure.close_code == POLICY_VIOLATION
            assert one.discarding or one.taken == far.sent[: len(one.taken)]
            assert one.connection.kept() < 2**15
            assert one.connection.outcome is None or one.connection.ended


# What it begins with


def program(steps: str) -> bytes:
    """A conversation, of steps such as "client text 50"."""
    out = bytearray()
    for step in filter(None, map(str.strip, steps.split(","))):
        side, operation, argument = step.split()
        out += bytes([OPERATIONS.index(operation) << 1 | (side == "client"), int(argument)])
    return bytes(out)


EACH_MESSAGE = "".join(f"client {how} 50, server {how} 50," for how in OPERATIONS[:6])
CONVERSATIONS = [
    EACH_MESSAGE
    + "client deliver 3, client deliver 255, client deliver-all 0, server deliver-all 0,"
    + "server take 1, server take 0, server take 0, client take 1, server take 1," * 9,
    # Pings, that are answered and forgotten, and two that cannot be sent.
    "client ping 1, client ping 2, client ping 2, client ping 4, client ping 200, server pong 9,"
    "client deliver-all 0, server deliver-all 0, client wait 1",
    # Closing by both at once, by one, and with what may not be sent.
    "client close 5, server close 200, client deliver-all 0, server deliver-all 0",
    "client close 0, client close 69, client text 9, client deliver 5, client deliver-all 0,"
    "server text 9, server deliver-all 0, client end 0, server end 0, server end 1",
    "client text 9, client close 200, client deliver-all 0, server wait 200, client wait 200",
    # Silence, and pings that are not answered; a peer that takes nothing.
    "client wait 90, server wait 90, client wait 90, client wait 90, client wait 90",
    "client keepalive 9, client wait 5, client deliver-all 0, client wait 5, client wait 9",
    "client keepalive 9, client wait 5, client deliver-all 0, server deliver-all 0, client wait 1,"
    "client wait 1, client wait 2, server ping 1, server deliver-all 0, client wait 3",
    "client keepalive 9, client wait 5, client wait 5, server keepalive 0, server wait 9,"
    "server wait 9, server deliver-all 0",
    "server text 200, server wait 99, server wait 99, server wait 99, client close 5, client end 0",
    # A message that is never finished; one that nobody takes; one dropped while it arrives.
    "client binary-fragments 255, client deliver 30, server take 1, server wait 250, server take 1,"
    "server wait 250, server deliver-all 0, client deliver-all 0",
    "client text-fragments 99, client deliver 60, server discard 0, client deliver-all 0",
    "client binary 255," * 9 + "client deliver 200, server discard 0, client deliver-all 0,",
    "client text 99, server wait 2, server text 255, server wait 4, server deliver 9,"
    "server wait 40, server wait 9, server deliver-all 0, server wait 99, client deliver 5,"
    "server wait 241, server close 5, server take 1, server take 1",
    "client text 9," * 9 + "client deliver-all 0, server keepalive 9, server wait 250,"
    "server take 0, server take 1, server keepalive 9, server end 0",
]

SEEDS = [program(steps) for steps in CONVERSATIONS]
