"""What holds for every input: hypothesis looks for one for which it does not.

The examples are the same in each run. `HYPOTHESIS_EXAMPLES=10000` tries more of them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import creche
from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.extensions import agree_on, choose_from, format_offers
from creche.protocol.closing import make_close
from creche.protocol.connection import Connection
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, append_frame
from creche.protocol.states import Side, State
from fuzzing.scenarios import Scenario, make_scenario
from fuzzing.sequences import play

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "100"))
every_input = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

pytestmark = pytest.mark.timeout(600)

RSV1 = creche.Extension.RSV1
KEY = b"\x01\x02\x03\x04"


# Frames, most of them as they should be


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    out = bytearray()
    append_frame(out, opcode, payload, KEY, fin)
    return bytes(out)


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


pings = st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=125))
closes = st.builds(
    lambda code, reason: frame(CLOSE, make_close(code, reason).payload()),
    st.sampled_from([1000, 1001, 4000]),
    st.text(max_size=30),
)
bodies = st.one_of(
    st.binary(max_size=300),
    st.integers(0, 2000).map(lambda size: (bytes(range(256)) * 8)[:size]),
)
texts = st.one_of(
    st.text(max_size=100),
    st.integers(0, 700).map(lambda size: ("é☃x🐍" * 200)[:size]),
).map(str.encode)
good_payloads = st.one_of(
    st.tuples(st.just(BINARY), bodies),
    st.tuples(st.just(TEXT), texts),
    st.tuples(st.just(BINARY | RSV1), bodies.map(deflated)),
    st.tuples(st.just(TEXT | RSV1), texts.map(deflated)),
)
bad_payloads = st.one_of(
    st.tuples(st.just(TEXT), st.binary(max_size=30)),  # which may be no UTF-8
    st.tuples(st.just(BINARY | RSV1), st.binary(max_size=30)),  # which may not be inflated
    st.tuples(st.integers(0, 15), st.binary(max_size=30)),
)


@st.composite
def messages(draw: st.DrawFn, payloads: st.SearchStrategy[tuple[int, bytes]]) -> bytes:
    """A message in several frames, perhaps with control frames between them."""
    opcode, payload = draw(payloads)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    out = b""
    for start, stop in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        out += frame(opcode, payload[start:stop], fin=False)
        opcode = CONTINUATION
        out += draw(st.one_of(st.just(b""), st.just(b""), pings))
    return out + frame(CONTINUATION, b"")


def frames_of(payloads: st.SearchStrategy[tuple[int, bytes]]) -> st.SearchStrategy[bytes]:
    return st.one_of(st.builds(lambda each: frame(*each), payloads), messages(payloads))


good_streams = st.lists(st.one_of(frames_of(good_payloads), pings), max_size=8).map(b"".join)
# Something ends it, or nothing does.
ends = st.one_of(
    st.just(b""), st.just(b""), closes, frames_of(bad_payloads), st.binary(min_size=1, max_size=20)
)
streams = st.builds(lambda *parts: b"".join(parts), good_streams, ends, good_streams)


# What a connection makes of it


def drain(connection: Any, into: list[object]) -> None:
    """Take messages and let it parse on, until neither goes on."""
    while True:
        before = len(into), connection.kept(), connection.must_continue
        into.extend(iter(lambda: connection.next_message(0), None))
        connection.resume(0)
        into.extend(iter(lambda: connection.next_message(0), None))
        if before == (len(into), connection.kept(), connection.must_continue):
            return


def observe(pieces: Iterable[bytes], **options: Any) -> dict[str, object]:
    """What a server sees of the pieces, and says to them."""
    _, chosen = choose_from([PerMessageDeflate()], "permessage-deflate")
    connection = Connection(Side.SERVER, bytearray(), 0, extensions=chosen, **options)
    received: list[object] = []
    for piece in pieces:
        connection.receive_data(piece, 0)
        drain(connection, received)
    close, failure = connection.received, connection.failure
    return {
        "messages": received,
        "written": bytes(connection.outbox),
        "state": connection.state.name,
        "close": close and (close.code, close.reason),
        "failure": failure and (type(failure).__name__, str(failure)),
    }


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    ends = sorted(each % (len(data) + 1) for each in cuts)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


limits = st.fixed_dictionaries(
    {
        "max_size": st.sampled_from([None, 100, 500]),
        "max_fragments": st.sampled_from([None, 3]),
        "max_queue": st.sampled_from([None, 1, 2]),
    }
)


@every_input
@given(streams, st.lists(st.integers(0, 10_000), max_size=20), limits)
def test_frames_mean_the_same_however_their_bytes_are_cut(
    data: bytes, cuts: list[int], options: Any
) -> None:
    in_pieces, whole = observe(cut(data, cuts), **options), observe([data], **options)
    if whole["failure"] and "a message of more than" in str(whole["failure"]):
        # It may be received as a stream, and is too big when somebody takes it whole. Which
        # control frames behind it are still looked at depends on when that is.
        for seen in in_pieces, whole:
            del seen["written"], seen["close"], seen["state"]
    assert in_pieces == whole


# Both builds


class Drawn:
    """The choices of hypothesis, for what a fuzzer makes by those of its bytes."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def octets(self, size: int) -> bytes:
        return self._draw(st.binary(min_size=size, max_size=size))

    def number(self, least: int, most: int) -> int:
        return self._draw(st.integers(least, most))


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    return make_scenario(Drawn(draw))


@every_input
@given(scenarios())
def test_both_builds_say_the_same(scenario: Scenario) -> None:
    """And what the standard says: whatever lengths are declared, however it is cut and taken."""
    play(scenario)


# Compression


bits = st.one_of(st.none(), st.integers(9, 15))


@every_input
@given(
    st.lists(st.binary(max_size=3000), max_size=5),
    *(st.booleans(), st.booleans(), bits, bits, st.integers(1, 9), st.integers(1, 9)),
)
def test_what_is_compressed_comes_out_as_it_was(
    sent: list[bytes],
    server_alone: bool,
    client_alone: bool,
    server_bits: int | None,
    client_bits: int | None,
    memory_level: int,
    level: int,
) -> None:
    factory = PerMessageDeflate(
        server_no_context_takeover=server_alone,
        client_no_context_takeover=client_alone,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
        memory_level=memory_level,
        level=level,
        threshold=0,
    )
    answer, chosen = choose_from([factory], format_offers([factory]))
    agreed = agree_on([factory], answer)
    client = Connection(Side.CLIENT, bytearray(), 0, extensions=agreed)
    server = Connection(Side.SERVER, bytearray(), 0, extensions=chosen)
    for ours, theirs in ((client, server), (server, client)):
        for message in sent:
            ours.send_message(BINARY, message * 3)
        received: list[object] = []
        theirs.receive_data(bytes(ours.outbox), 0)
        drain(theirs, received)
        assert received == [message * 3 for message in sent]


# Two peers and a wire that may be slow, and may break


sides = st.sampled_from(["client", "server"])


class Peers(RuleBasedStateMachine):
    """Two connections, each the other's peer."""

    def __init__(self) -> None:
        super().__init__()
        factory = [PerMessageDeflate(threshold=0)]
        answer, chosen = choose_from(factory, format_offers(factory))
        self.peers = {
            "client": self._connection(Side.CLIENT, agree_on(factory, answer)),
            "server": self._connection(Side.SERVER, chosen),
        }
        self.wire: dict[str, bytearray] = {name: bytearray() for name in self.peers}  # from whom
        self.sent: dict[str, list[object]] = {name: [] for name in self.peers}
        self.taken: dict[str, list[object]] = {name: [] for name in self.peers}
        self.broken = False

    def _connection(self, side: Side, extensions: Any) -> Connection:
        return Connection(side, bytearray(), 0, extensions=extensions, max_queue=3)

    @staticmethod
    def other(name: str) -> str:
        return "server" if name == "client" else "client"

    @rule(name=sides, message=st.one_of(st.text(max_size=50), st.binary(max_size=50)))
    def send(self, name: str, message: str | bytes) -> None:
        if self.peers[name].can_send:
            if isinstance(message, str):
                self.peers[name].send_message(TEXT, message.encode())
            else:
                self.peers[name].send_message(BINARY, message)
            self.sent[name].append(message)

    @rule(name=sides)
    def ping(self, name: str) -> None:
        if self.peers[name].can_send:
            self.peers[name].send_ping(None, 0)

    @rule(name=sides, code=st.sampled_from([1000, 1001, 4000]))
    def close(self, name: str, code: int) -> None:
        self.peers[name].send_close(make_close(code, ""), 0)

    @rule(name=sides, size=st.integers(1, 60))
    def deliver(self, name: str, size: int) -> None:
        """Some of what this one wrote gets to the other."""
        peer, wire = self.peers[name], self.wire[name]
        wire += peer.outbox
        peer.outbox.clear()
        piece = bytes(wire[:size])
        del wire[:size]
        receiver = self.peers[self.other(name)]
        if piece and receiver.state is not State.LOST:
            receiver.receive_data(piece, 0)

    @rule(name=sides)
    def take(self, name: str) -> None:
        drain(self.peers[name], self.taken[name])

    @precondition(lambda self: not self.broken)
    @rule()
    def lose(self) -> None:
        """The wire breaks; what is on it may still arrive."""
        self.broken = True
        self.peers["client"].lose("lost")

    @invariant()
    def nobody_breaks_the_protocol(self) -> None:
        assert all(peer.failure is None for peer in self.peers.values())

    @invariant()
    def what_is_taken_was_sent_in_this_order(self) -> None:
        for name, taken in self.taken.items():
            assert taken == self.sent[self.other(name)][: len(taken)]

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        assert all(peer.kept() < 10_000 for peer in self.peers.values())

    def teardown(self) -> None:
        for _ in range(3):
            for name in self.peers:
                self.deliver(name, 10**6)
                self.take(name)
                self.take(self.other(name))
        if self.broken:
            self.peers["server"].receive_eof()
            assert self.peers["server"].state in (State.LOST, State.CLOSED)
            return
        for name, taken in self.taken.items():
            assert taken == self.sent[self.other(name)]
        client, server = self.peers["client"], self.peers["server"]
        assert client.state is server.state
        assert client.state in (State.OPEN, State.CLOSED)
        if client.state is State.CLOSED:
            assert client.received is not None
            assert server.received is not None
            assert client.sent is not None
            assert client.sent.code == server.received.code


Peers.TestCase.settings = settings(every_input, stateful_step_count=40)
TestPeers = Peers.TestCase
