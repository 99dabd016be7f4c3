"""Plays a scenario with a build, and judges what can be seen of it.

Both builds have to say the same at every step, and what reference.py says in the end.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from fuzzing.buffers import exact_bytes, limit, limited
from fuzzing.builds import Build
from fuzzing.reference import CONTINUATION, TOO_BIG, Decoded, Reader
from fuzzing.scenarios import Scenario

Message = str | bytes

# What is kept beyond what arrived: what a piece of compressed data becomes.
DECODED = 2**17

# What an object takes at most, beside its content, and how many pieces of text there may be that
# were not joined.
OBJECT = 250
PIECES = 260


class Play:
    """One connection of one build, and what was seen of it.

    Attributes:
        log: what each step returned or raised, and what the caller could see afterwards.
        received: the messages that were taken.
        wire: what it wrote.
    """

    def __init__(self, build: Build, scenario: Scenario, guarded: bool) -> None:
        self.build = build
        self.scenario = scenario
        self.guarded = guarded
        # Nothing is left to chance.
        build.masking._keys = itertools.cycle([b"\1\2\3\4", b"\xff\0\x80\x7f", b"\0\0\0\0"])  # type: ignore[attr-defined]
        counter = itertools.count()
        build.pings.os = SimpleNamespace(  # type: ignore[attr-defined]
            urandom=lambda size: next(counter).to_bytes(size, "big")
        )
        side = build.states.Side
        extensions = []
        if scenario.deflate is not None:
            extensions.append(build.deflate.Deflate(*scenario.deflate))
        self.connection = build.connection.Connection(
            side.CLIENT if scenario.client else side.SERVER,
            bytearray(),
            0.0,
            extensions=extensions,
            **scenario.options,
        )
        self.observed: list[tuple[bool, int, int, bool, bytes]] = []
        if scenario.observed:
            self.connection.observer = lambda *frame: self.observed.append(frame)
        self.now = 0.0
        self.log: list[object] = []
        self.received: list[Message] = []
        self.parts: list[Message] = []
        self.sent: list[Message] = []
        self.wire = bytearray()
        self.arrived = bytearray()
        self.acted: set[str] = set()
        for name, argument in scenario.steps:
            self.log.append((name, getattr(self, f"do_{name}")(argument), self.look()))
            self.acted.add(name)
        self.wire += self.connection.outbox

    def look(self) -> tuple[object, ...]:
        """All that the caller may look at."""
        connection = self.connection
        kept = connection.kept()
        bounds = self.scenario.options["max_queue_bytes"], self.scenario.options["max_size"]
        # In memory: a character takes four bytes at most, a buffer twice its content, and each
        # message and each piece of text what Python objects take.
        objects = OBJECT * (connection.inbox.messages + PIECES)
        if self.scenario.deflate is None:
            assert kept <= 4 * len(self.arrived) + objects
        elif None not in bounds:
            assert kept <= 4 * (len(self.arrived) + sum(bounds) + DECODED) + objects
        return (
            *(connection.state.name, connection.ended, connection.can_send, connection.loss),
            *(connection.must_pause(), connection.must_continue, connection.payload_wanted()),
            *(kept, len(connection.outbox), connection.next_timeout, connection.inbox.messages),
            *(
                connection.inbox.between_messages,
                connection.inbox.full,
                connection.inbox.has_part(),
            ),
            *(connection.payload_left, connection.held, self.ending()),
        )

    def ending(self) -> object:
        close, failure = self.connection.received, self.connection.failure
        return (
            close and (close.code, close.reason),
            failure and (type(failure).__name__, failure.close_code, str(failure)),
        )

    # Steps

    def do_receive(self, argument: tuple[bytes, str, bytes]) -> None:
        data, form, behind = argument
        connection = self.connection
        if connection.eof or connection.state.name == "LOST":
            return
        self.arrived += data
        if form == "bytes":
            connection.receive_data(exact_bytes(data) if self.guarded else data, self.now)
        elif form == "whole" or not self.guarded:
            connection.receive_data(limited(data), self.now)
        else:
            buffer = limited(data, behind)
            connection.receive_data(buffer, self.now, len(data))
            limit(buffer, len(buffer))
            assert buffer[len(data) :] == behind

    def do_next(self, argument: object = None) -> Any:
        if self.parts:
            return self.do_part()
        message: Message | None = self.connection.next_message(self.now)
        if message is not None:
            self.received.append(message)
        return message

    def do_part(self, argument: object = None) -> Any:
        part = self.connection.next_part(self.now)
        if part is not None:
            self.parts.append(part[0])
            if part[1]:
                self.received.append(type(part[0])().join(self.parts))
                self.parts.clear()
        return part

    def do_either(self, argument: object = None) -> Any:
        return self.do_part() if len(self.arrived) % 2 else self.do_next()

    def do_resume(self, argument: object = None) -> None:
        self.connection.resume(self.now)

    def do_take(self, argument: object = None) -> object:
        return [(ping.payload, ping.latency) for ping in self.connection.take_answered()]

    def do_drain(self, taking: str) -> None:
        """Take what there is, and let it parse on, until neither goes on."""
        take = getattr(self, f"do_{taking}")
        connection = self.connection
        before: object = None
        while before != (before := self.progress()):
            for _ in range(2):
                while take() is not None:
                    pass
                connection.resume(self.now)

    def progress(self) -> object:
        connection = self.connection
        return (
            *(len(self.received), len(self.parts), connection.must_continue, connection.kept()),
            *(len(connection._tail), connection.payload_left, connection.inbox.full),
            connection.held,
        )

    def do_send(self, argument: tuple[str, bool, bytes, int]) -> object:
        how, text, content, form = argument
        connection = self.connection
        if not connection.can_send:
            return None
        if self.guarded:
            content = exact_bytes(content)
        given: Any = content
        if form:
            given = bytearray(content) if form == 1 else memoryview(content)
        messages, frames = self.build.messages, self.build.frames
        try:
            payload = messages.encode_message(given, text)
            opcode = messages.message_opcode(given, text)
            if how == "message":
                connection.send_message(opcode, payload)
            elif how == "plain" and not connection.masking:
                if form == 0:
                    connection.outbox += connection.make_message(opcode, payload)
                else:
                    connection.send_header(opcode, payload)
                    connection.outbox += payload
                connection.observe_sent(opcode, payload)
            elif how == "prepared":
                prepared = self.build.prepared.PreparedMessage(given, text=text)
                encoded = prepared.encode_for(connection.extensions)
                made = encoded[2]
                assert made is None or made == frames.make_frame(encoded[0], encoded[1])
                if made is None or connection.masking:
                    connection.send_frame(encoded[0], encoded[1])
                else:
                    connection.outbox += made
            elif how == "fragments":
                half = len(payload) // 2
                connection.send_frame(opcode, payload[:half], fin=False)
                connection.send_frame(CONTINUATION, payload[half:])
            else:
                connection.send_frame(opcode, payload)
        except ValueError as exc:
            return type(exc).__name__, str(exc)
        self.sent.append(content.decode() if text else bytes(content))
        return None

    def do_ping(self, payload: bytes) -> object:
        if not self.connection.can_send:
            return None
        try:
            ping = self.connection.send_ping(payload or None, self.now)
        except ValueError as exc:
            return str(exc)
        return ping.payload, ping.sent_at

    def do_pong(self, payload: bytes) -> object:
        if not self.connection.can_send:
            return None
        try:
            self.connection.send_pong(payload)
        except ValueError as exc:
            return str(exc)
        return None

    def do_close(self, code: int) -> None:
        self.connection.send_close(self.build.closing.make_close(code, "é"), self.now)

    def do_wait(self, seconds: float) -> object:
        connection, timers = self.connection, self.connection.timers
        delivered = self.scenario.delivered + len(self.wire)
        if connection.outbox and not timers.is_watching_output():
            timers.output_waits(self.now, delivered)
        self.now += seconds
        out_of_time = connection.handle_timeout(self.now, delivered, len(connection.outbox))
        return out_of_time, connection.next_timeout > self.now

    def do_keepalive(self, seconds: float | None) -> None:
        self.connection.set_keepalive(self.now, seconds, seconds)
        self.connection.timers.set_paused(self.connection.must_pause(), self.now)

    def do_flood(self, size: int) -> None:
        """What still comes after the end."""
        connection = self.connection
        if connection.ended and not connection.eof and connection.state.name != "LOST":
            connection.receive_data(bytearray(size), self.now)

    def do_output(self, size: int) -> object:
        outbox = self.connection.outbox
        self.wire += outbox[:size]
        del outbox[:size]
        return self.connection.output_left()

    def do_discard(self, argument: object = None) -> None:
        self.connection.discard_input()

    def do_eof(self, argument: object = None) -> None:
        self.connection.receive_eof()
        assert self.connection.ended


def compare(ours: Play, theirs: Play) -> None:
    """Both builds have seen the same."""
    for number, (one, other) in enumerate(zip(ours.log, theirs.log, strict=True)):
        assert one == other, (number, one, other)
    assert ours.received == theirs.received
    assert ours.observed == theirs.observed
    assert ours.wire == theirs.wire
    assert ours.arrived == theirs.arrived


def judge(play: Play) -> None:
    """What was seen is what the standard says."""
    scenario = play.scenario
    send_bits, send_takeover, bits, takeover = (scenario.deflate or (15, None, 15, None))[:4]
    # Whoever takes a message in parts may take one of any size.
    limits = (scenario.max_size, scenario.options["max_fragments"])
    expected = Reader(not scenario.client, takeover, bits, *limits).read(bytes(play.arrived))
    _judge_received(play, expected)
    _judge_observed(play, expected)
    written = Reader(scenario.client, send_takeover, send_bits).read(bytes(play.wire))
    _judge_written(play, expected, written)


def _judge_received(play: Play, expected: Decoded) -> None:
    connection = play.connection
    if "discard" in play.acted:
        return
    if play.scenario.taking == "either":
        return  # which of the two limits held depends on what came when
    failure = connection.failure and connection.failure.close_code
    early = connection.loss or failure == 1008 or (expected.may_be_too_big and failure == TOO_BIG)
    if early:
        assert play.received == expected.messages[: len(play.received)]
        return
    assert failure == expected.failure, (failure, expected.failure)
    assert play.received == expected.messages
    close = connection.received
    assert (close and (close.code, close.reason)) == expected.close


def _judge_observed(play: Play, expected: Decoded) -> None:
    received = [frame[1:] for frame in play.observed if not frame[0]]
    # Where a message is too large, frames behind it may have been read before it was taken; where
    # messages are dropped, nobody looks whether they are broken.
    beyond = "discard" in play.acted or expected.failure == TOO_BIG
    assert beyond or len(received) <= len(expected.frames)
    for (opcode, length, fin, shown), frame in zip(received, expected.frames, strict=False):
        assert (opcode | fin << 7, length) == (frame.first, frame.length)
        assert frame.payload.startswith(shown)


def _judge_written(play: Play, expected: Decoded, written: Decoded) -> None:
    connection = play.connection
    lost = bool(connection.loss)  # and what waited with it
    assert written.failure is None
    assert lost or not written.rest
    if not lost:
        assert written.messages == play.sent
    # Pings of the peer are answered in order.
    asked = iter(expected.pings)
    volunteered = [argument for name, argument in play.scenario.steps if name == "pong"]
    answers = [frame.payload for frame in written.frames if frame.first & 0x0F == 10]
    if expected.failure != TOO_BIG and "discard" not in play.acted:
        for answer in answers:
            assert answer in volunteered or answer in asked
    usual = {"receive", "next", "part", "resume", "take", "output", "drain"}
    below_limit = len(play.wire) < play.scenario.options["write_limit"]
    whole = play.scenario.taking != "either" and not connection.failure
    if play.acted <= usual and below_limit and whole:
        assert answers == expected.pings
    failure = connection.failure
    if connection.sent is not None and not lost:
        assert written.close is not None
        assert written.close[0] == connection.sent.code
        # By another one, if it was told before a message was taken that is too large.
        if failure and not play.acted & {"close", "wait"} and connection.received is None:
            assert written.close[0] == failure.close_code
