from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest

from creche.protocol.closing import Close, make_close
from creche.protocol.connection import Connection
from creche.protocol.control_frames import DRAIN_BYTES
from creche.protocol.exceptions import PayloadTooBig, ProtocolError
from creche.protocol.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FrameHeader,
    append_frame,
)
from creche.protocol.masking import apply_mask
from creche.protocol.messages import encode_message, message_opcode
from creche.protocol.parsing import FRAMES_IN_A_ROW
from creche.protocol.states import TRANSITIONS, Event, Outcome, Side, State
from support import assert_linear

KEY = b"\x01\x02\x03\x04"


def make(side: Side = Side.SERVER, **options: Any) -> Connection:
    return Connection(side, bytearray(), 0, **options)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True) -> bytes:
    out = bytearray()
    append_frame(out, opcode, payload, KEY if masked else None, fin)
    return bytes(out)


def written(connection: Connection) -> list[tuple[int, bytes]]:
    """The frames in the outbox, which is emptied."""
    frames = []
    data = bytes(connection.outbox)
    connection.outbox.clear()
    header = FrameHeader(connection.side is Side.CLIENT)
    position = 0
    while position < len(data):
        start = header.read(data, position, len(data))
        assert start > 0
        assert header.fin
        position = start + header.length
        payload = bytearray(data[start:position])
        if header.key is not None:
            apply_mask(payload, 0, len(payload), header.key)
        frames.append((header.opcode, bytes(payload)))
    return frames


def state(connection: Connection) -> State:
    """The state, which a type checker takes to be the same after every call."""
    return connection.state


def outcome(connection: Connection) -> Outcome | None:
    return connection.outcome


def messages(connection: Connection, now: float = 0) -> list[str | bytes]:
    return list(iter(lambda: connection.next_message(now), None))


def close_payload(code: int, reason: str = "") -> bytes:
    return make_close(code, reason).payload()


# Messages


@pytest.mark.parametrize("side", Side)
def test_messages_arrive_whole_however_they_are_cut(side: Side) -> None:
    masked = side is Side.SERVER
    data = b"".join(
        [
            frame(TEXT, "é☃".encode(), masked=masked),
            frame(PING, b"?", masked=masked),
            frame(BINARY, b"\xff" * 200, masked=masked),
            frame(TEXT, b"a\xc3", fin=False, masked=masked),
            frame(PONG, b"", masked=masked),
            frame(CONTINUATION, b"", fin=False, masked=masked),
            frame(CONTINUATION, b"\xa9b", masked=masked),
            frame(BINARY, b"", masked=masked),
        ]
    )
    expected = ["é☃", b"\xff" * 200, "aéb", b""]
    for cut in range(len(data)):
        connection = make(side)
        connection.receive_data(data[:cut], 1)
        connection.receive_data(data[cut:], 1)
        assert messages(connection) == expected, cut
        assert written(connection) == [(PONG, b"?")]
    connection = make(side)
    for i in range(len(data)):
        connection.receive_data(data[i : i + 1], 1)
    assert messages(connection) == expected


def test_a_client_masks_with_a_new_key_each_time_and_a_server_does_not() -> None:
    client, server = make(Side.CLIENT), make(Side.SERVER)
    for connection in (client, server):
        connection.send_message(TEXT, b"same")
        connection.send_message(TEXT, b"same")
    assert server.outbox == frame(TEXT, b"same", masked=False) * 2
    first, second = client.outbox[:10], client.outbox[10:]
    assert first[1] & 0x80
    assert first != second
    assert written(client) == [(TEXT, b"same")] * 2


@pytest.mark.parametrize(
    ("message", "opcode", "payload"),
    [
        ("é", TEXT, b"\xc3\xa9"),
        (b"x", BINARY, b"x"),
        (bytearray(b"x"), BINARY, b"x"),
        (memoryview(b"abcd").cast("I"), BINARY, b"abcd"),
        (memoryview(b"abcd")[::2], BINARY, b"ac"),
    ],
)
def test_str_is_text_and_bytes_like_is_binary(message: Any, opcode: int, payload: bytes) -> None:
    assert message_opcode(message) == opcode
    assert bytes(encode_message(message)) == payload


@pytest.mark.parametrize("message", [123, None, ["a"]])
def test_other_messages_are_refused(message: Any) -> None:
    with pytest.raises(TypeError, match="message must be str or bytes-like, not"):
        encode_message(message)


def test_a_lone_surrogate_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode_message("\ud800")


# Backpressure


def test_parsing_stops_at_the_mark_and_goes_on_when_there_is_room() -> None:
    connection = make(max_queue=4)
    connection.receive_data(frame(TEXT, b"x") * 1000, 0)
    assert connection.inbox.messages == 4
    assert connection.must_pause()
    total = 0
    while connection.inbox.messages:
        total += len(messages(connection))
        connection.resume(0)
    assert total == 1000
    assert not connection.must_pause()


def test_bytes_that_arrive_while_the_inbox_is_full_are_kept_in_order() -> None:
    connection = make(max_queue=1)
    for text in (b"a", b"b", b"c"):
        connection.receive_data(frame(TEXT, text), 0)
    received = []
    for _ in range(3):
        received += messages(connection)
        connection.resume(0)
    assert received == ["a", "b", "c"]


def test_the_start_of_a_frame_is_no_reason_to_pause() -> None:
    connection = make()
    connection.receive_data(frame(TEXT, b"abc")[:3], 0)
    assert not connection.must_pause()


def test_memory_grows_with_data_and_never_with_a_declared_length() -> None:
    connection = make()
    connection.receive_data(b"\x82\xff" + (2**62).to_bytes(8, "big") + KEY + b"x" * 10, 0)
    tracemalloc.start()
    connection.receive_data(b"x" * 10, 0)
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()
    assert connection.state is State.OPEN
    assert connection.inbox.bytes == 0


# Control frames


def test_a_message_taken_bit_by_bit_may_take_longer_than_message_timeout() -> None:
    connection = make(message_timeout=10, ping_interval=None)
    connection.receive_data(frame(BINARY, b"a", fin=False), 0)
    for now in range(0, 100, 9):
        connection.receive_data(frame(CONTINUATION, b"b", fin=False), now)
        assert connection.next_part(now) is not None
        assert connection.next_timeout == now + 10
    assert connection.handle_timeout(101) is False
    assert state(connection) is State.OPEN
    connection.handle_timeout(109)
    assert connection.failure is not None


def test_every_ping_is_answered_while_the_outbox_has_room() -> None:
    connection = make()
    connection.receive_data(frame(PING, b"1") + frame(PING, b"2"), 0)
    assert written(connection) == [(PONG, b"1"), (PONG, b"2")]


def test_above_the_write_limit_only_the_newest_ping_is_answered() -> None:
    connection = make(write_limit=100)
    connection.send_message(BINARY, b"x" * 100)
    size = len(connection.outbox)
    connection.receive_data(b"".join(frame(PING, b"%d" % i) for i in range(50)), 0)
    assert len(connection.outbox) == size
    connection.output_left()
    assert len(connection.outbox) == size  # still above
    connection.outbox.clear()
    connection.output_left()
    assert written(connection) == [(PONG, b"49")]
    connection.output_left()
    assert written(connection) == []


def test_a_pong_that_waited_goes_out_before_the_close_frame() -> None:
    connection = make(write_limit=1)
    connection.send_message(BINARY, b"x")
    connection.receive_data(frame(PING, b"p"), 0)
    connection.send_close(Close(1000), 0)
    assert [opcode for opcode, _ in written(connection)] == [BINARY, PONG, CLOSE]


def test_a_pong_answers_its_ping_and_all_earlier_ones() -> None:
    connection = make(Side.CLIENT)
    pings = tuple(connection.send_ping(payload, 1) for payload in (b"a", b"b", b"c"))
    connection.receive_data(frame(PONG, b"b", masked=False), 3)
    assert connection.take_answered() == pings[:2]
    assert connection.take_answered() == ()
    assert [ping.latency for ping in pings] == [2, 2, None]
    assert connection.latency == 2
    connection.receive_data(frame(PONG, b"nobody's", masked=False), 4)
    assert connection.take_answered() == ()
    connection.receive_data(frame(PONG, b"c", masked=False), 5)
    assert connection.take_answered() == pings[2:]


def test_a_pings_payload_is_made_up_and_unlike_those_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = make()
    payloads = iter([b"same", b"same", b"other"])
    monkeypatch.setattr("os.urandom", lambda size: next(payloads))
    assert connection.send_ping(None, 0).payload == b"same"
    assert connection.send_ping(None, 0).payload == b"other"


def test_a_ping_with_a_payload_under_way_or_too_long_is_refused() -> None:
    connection = make()
    ping = connection.send_ping(b"x", 0)
    with pytest.raises(ValueError, match="data b'x' is that of a ping without an answer"):
        connection.send_ping(b"x", 0)
    connection.forget_ping(ping)
    connection.send_ping(b"x", 0)
    connection.send_ping(b"x" * 125, 0)
    with pytest.raises(ValueError, match="data is 126 bytes long"):
        connection.send_ping(b"x" * 126, 0)
    with pytest.raises(ValueError, match="data is 126 bytes long"):
        connection.send_pong(b"x" * 126)


# The closing handshake


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(1000, Outcome.NORMAL), (1001, Outcome.NORMAL), (1011, Outcome.ABNORMAL), (4000, None)],
)
def test_the_peers_close_frame_is_echoed_and_ends_the_stream(
    code: int, outcome: Outcome | None
) -> None:
    connection = make()
    connection.receive_data(frame(TEXT, b"last") + frame(CLOSE, close_payload(code, "why")), 0)
    assert connection.state is State.CLOSED
    assert connection.ended
    assert not connection.can_send
    assert connection.outcome is (outcome or Outcome.ABNORMAL)
    assert connection.received == connection.sent == Close(code, "why")
    assert written(connection) == [(CLOSE, close_payload(code, "why"))]
    assert messages(connection) == ["last"]


def test_a_close_frame_without_a_code_ends_the_stream_well() -> None:
    connection = make()
    connection.receive_data(frame(CLOSE), 0)
    assert connection.outcome is Outcome.NORMAL
    assert connection.received == Close(1005)
    assert written(connection) == [(CLOSE, b"")]


def test_after_our_close_frame_messages_still_arrive_until_the_peers() -> None:
    connection = make()
    connection.send_close(Close(1000), 0)
    connection.send_close(Close(1001), 0)  # only the first one counts
    assert connection.state is State.CLOSING
    connection.receive_data(frame(TEXT, b"late") + frame(PING), 0)
    assert written(connection) == [(CLOSE, close_payload(1000))]
    assert not connection.ended
    connection.receive_data(frame(CLOSE, close_payload(1000)) + frame(TEXT, b"too late"), 0)
    assert messages(connection) == ["late"]
    assert connection.ended


def test_input_that_is_discarded_is_still_searched_for_the_close_frame() -> None:
    connection = make(max_queue=1)
    connection.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b"), 0)
    assert connection.must_pause()
    connection.discard_input()
    connection.send_close(Close(1000), 0)
    connection.receive_data(
        frame(TEXT, b"c" * 100_000)
        + frame(TEXT, b"d", fin=False)
        + frame(CONTINUATION, b"e")
        + frame(CLOSE, close_payload(1000)),
        0,
    )
    assert connection.state is State.CLOSED
    assert messages(connection) == []


def test_the_end_of_the_bytes_without_a_close_frame_is_a_loss() -> None:
    connection = make()
    connection.receive_data(frame(TEXT, b"x"), 0)
    connection.receive_eof()
    assert connection.state is State.LOST
    assert connection.outcome is Outcome.ABNORMAL
    assert "without a closing handshake" in connection.loss
    assert messages(connection) == ["x"]


def test_the_end_of_the_bytes_after_the_closing_handshake_is_none() -> None:
    connection = make()
    connection.receive_data(frame(CLOSE, close_payload(1000)), 0)
    connection.receive_eof()
    assert connection.state is State.CLOSED
    assert connection.eof
    connection.lose("")
    connection.lose("again")
    assert connection.outcome is Outcome.NORMAL
    assert connection.loss == ""


def test_too_many_bytes_after_the_end_lose_the_transport() -> None:
    connection = make()
    connection.receive_data(frame(CLOSE, close_payload(1000)), 0)
    for _ in range(DRAIN_BYTES // 2**16):
        connection.receive_data(b"x" * 2**16, 0)
    assert state(connection) is State.CLOSED
    connection.receive_data(b"x", 0)
    assert connection.state is State.LOST
    assert connection.outcome is Outcome.NORMAL


# Violations


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"\xc1\x80" + KEY, 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xff", fin=False), 1007),
        (frame(CONTINUATION, b""), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(BINARY, b"12345678"), 1009),
    ],
)
def test_a_violation_takes_its_place_in_the_stream(bad: bytes, code: int) -> None:
    connection = make(max_size=4)
    connection.receive_data(frame(TEXT, b"1st") + frame(PING) + frame(TEXT, b"2nd") + bad, 0)
    connection.receive_data(frame(TEXT, b"3rd"), 0)
    for text in ("1st", "2nd"):
        assert connection.next_message(0) == text
        assert connection.outcome is None
        assert connection.can_send
        connection.send_message(TEXT, text.encode())
    assert connection.next_message(0) is None
    assert connection.state is State.CLOSED
    assert connection.outcome is Outcome.ABNORMAL
    assert connection.sent is not None
    assert connection.sent.code == code
    frames = written(connection)
    assert [opcode for opcode, _ in frames] == [PONG, TEXT, TEXT, CLOSE]
    assert connection.failure is not None
    assert connection.failure.__traceback__ is None
    assert connection.next_message(0) is None


def test_a_long_explanation_is_cut_to_what_a_close_frame_holds() -> None:
    connection = make()
    connection.failure = ProtocolError("é" * 100)
    connection.fail(0)
    assert connection.sent == Close(1002, "é" * 61)


def test_closing_tells_a_peer_that_broke_the_protocol_of_that() -> None:
    connection = make()
    connection.receive_data(frame(TEXT, b"\xff"), 0)
    connection.send_close(Close(1000), 0)
    assert connection.sent is not None
    assert connection.sent.code == 1007


def test_a_violation_after_our_close_frame_ends_the_frames() -> None:
    connection = make()
    connection.send_close(Close(1000), 0)
    connection.receive_data(b"\xff" * 10, 0)
    assert connection.state is State.CLOSED
    assert connection.next_timeout == 1
    assert isinstance(connection.failure, ProtocolError)
    assert connection.sent == Close(1000)


def test_what_follows_a_message_too_big_is_dropped_even_the_peers_close_frame() -> None:
    connection = make(max_size=1)
    connection.receive_data(frame(TEXT, b"xx") + frame(CLOSE, close_payload(1000)), 0)
    assert connection.outcome is None
    assert connection.next_message(0) is None
    assert connection.outcome is Outcome.ABNORMAL
    assert connection.received is None
    assert isinstance(connection.failure, PayloadTooBig)


def test_a_violation_that_nobody_takes_is_told_after_close_timeout() -> None:
    connection = make(close_timeout=5)
    connection.receive_data(frame(TEXT, b"unread") + b"\xff\xff", 0)
    assert connection.next_timeout == 5
    assert connection.handle_timeout(5)
    assert state(connection) is State.CLOSED
    assert written(connection)[-1][0] == CLOSE
    assert connection.next_timeout == 6  # one second for the peer to read it
    connection.handle_timeout(6)
    assert connection.state is State.LOST


def test_bytes_after_a_violation_are_dropped_without_an_end_to_the_answers() -> None:
    connection = make()
    connection.receive_data(b"\xff", 0)
    connection.receive_data(b"x" * (DRAIN_BYTES + 1), 0)
    connection.receive_eof()
    connection.resume(0)
    assert connection.state is State.FAILING


# Time


def test_an_idle_connection_lives_for_ten_minutes_with_a_peer_that_answers() -> None:
    client, server = make(Side.CLIENT), make(Side.SERVER)
    now = 0.0
    pings = 0
    while now < 600:
        now = min(client.next_timeout, server.next_timeout)
        for connection in (client, server):
            connection.handle_timeout(now)
        for _ in range(2):
            for source, target in ((client, server), (server, client)):
                data = bytes(source.outbox)
                source.outbox.clear()
                if data:
                    pings += 1
                    target.receive_data(data, now + 0.01)
    assert client.state is server.state is State.OPEN
    assert pings >= 600 / 20 / 2


def test_a_peer_that_stops_answering_is_dropped_after_interval_and_timeout() -> None:
    connection = make(ping_interval=20, ping_timeout=15)
    connection.receive_data(frame(TEXT, b"x"), 7)
    while connection.state is State.OPEN:
        now = connection.next_timeout
        connection.handle_timeout(now)
    assert now == 7 + 20 + 15
    assert connection.outcome is Outcome.ABNORMAL
    assert "keepalive ping timeout" in connection.loss
    assert connection.next_timeout == float("inf")


def test_without_ping_timeout_unanswered_pings_are_forgotten() -> None:
    connection = make(ping_interval=1, ping_timeout=None)
    for now in range(1, 100):
        connection.handle_timeout(now)
    assert len(written(connection)) == 99
    assert len(connection._pings) == 1


def test_a_closing_handshake_that_is_not_answered_ends_after_close_timeout() -> None:
    connection = make(close_timeout=3)
    connection.send_close(Close(1000), 10)
    looks = []
    while connection.state is State.CLOSING:
        looks.append(connection.next_timeout)
        assert not connection.handle_timeout(looks[-1])
    assert looks == [10.75, 11.5, 12.25, 13]
    assert connection.state is State.LOST
    assert "close timeout" in connection.loss


def test_a_peer_that_takes_bytes_has_close_timeout_after_the_last_one() -> None:
    connection = make(close_timeout=4)
    connection.send_close(Close(1000), 10)
    for now in range(11, 31):
        assert connection.next_timeout == now
        assert not connection.handle_timeout(now, now, 1000)
    while connection.state is State.CLOSING:
        now = int(connection.next_timeout)
        assert not connection.handle_timeout(now, 30, 1000)
    assert now == 34


def test_a_peer_that_takes_bytes_has_linger_timeout_in_all() -> None:
    connection = make(close_timeout=4, linger_timeout=30.5)
    connection.send_close(Close(1000), 10)
    delivered = 0
    while connection.state is State.CLOSING:
        now = connection.next_timeout
        delivered += 1
        assert not connection.handle_timeout(now, delivered, 1000)
    assert now == 40.5
    assert connection.loss == "linger timeout: the peer took over 30.5 s to take our bytes"
    other = make(close_timeout=40, linger_timeout=3)
    other.send_close(Close(1000), 10)
    assert other.next_timeout == 13
    other.handle_timeout(13, 100, 1000)
    assert other.state is State.LOST


def test_a_hurried_closing_handshake_is_not_put_off() -> None:
    connection = make(close_timeout=4)
    connection.send_close(Close(1000), 10)
    connection.timers.close_within(1, 10)
    assert connection.next_timeout == 11
    assert not connection.handle_timeout(11, 1000, 1000)
    assert connection.state is State.LOST


def test_a_deadline_of_the_closing_handshake_that_is_looked_at_late_is_looked_at_again() -> None:
    connection = make(close_timeout=4)
    connection.send_close(Close(1000), 10)
    connection.handle_timeout(100, 500, 1000)
    assert connection.state is State.CLOSING
    assert connection.next_timeout == 101
    connection.handle_timeout(101, 600, 900)
    assert connection.next_timeout == 102
    connection.timers.stop()
    other = make(close_timeout=4)
    other.send_close(Close(1000), 10)
    other.handle_timeout(100, 500, 1000)
    other.handle_timeout(101, 500, 1000)
    assert other.state is State.LOST


def test_the_application_has_close_timeout_to_take_the_end() -> None:
    connection = make(close_timeout=3)
    connection.receive_data(frame(TEXT, b"x") + frame(CLOSE, close_payload(1000)), 10)
    connection.lose("")  # the transport has ended, too
    assert connection.next_timeout == 13
    assert connection.handle_timeout(13)
    assert connection.next_timeout == float("inf")


def test_a_stalled_peer_is_given_up() -> None:
    connection = make(ping_interval=None, stall_timeout=8)
    connection.send_message(BINARY, b"x" * 100)
    connection.timers.output_waits(0, 0)
    while connection.state is State.OPEN:
        now = connection.next_timeout
        connection.handle_timeout(now, 0, 100)
    assert now == 8
    assert "stall timeout" in connection.loss
    assert not connection.outbox


# The state machine


def test_the_transitions_name_every_state_and_end_in_lost() -> None:
    assert set(TRANSITIONS) == set(State)
    for state, event in itertools.product(State, Event):
        target = TRANSITIONS[state].get(event)
        assert target is None or target is not State.OPEN
    assert TRANSITIONS[State.LOST] == {}
    reachable = {State.OPEN}
    for _ in State:
        reachable |= {target for state in reachable for target in TRANSITIONS[state].values()}
    assert reachable == set(State)


def test_a_message_that_is_not_finished_in_time_is_told_with_1008() -> None:
    connection = make(message_timeout=60, ping_interval=None)
    connection.receive_data(frame(TEXT, b"whole") + frame(BINARY, b"x", fin=False), 10)
    assert connection.next_timeout == 70
    connection.handle_timeout(70)
    assert messages(connection, 70) == ["whole"]
    [(opcode, payload)] = written(connection)
    assert (opcode, payload[:2]) == (CLOSE, (1008).to_bytes(2, "big"))
    assert b"message timeout" in payload
    assert outcome(connection) is Outcome.ABNORMAL


def test_a_message_that_is_finished_in_time_leaves_no_deadline() -> None:
    connection = make(message_timeout=60, ping_interval=None)
    data = frame(TEXT, b"one") + frame(TEXT, b"two")
    for i in range(len(data)):
        connection.receive_data(data[i : i + 1], i)
    assert connection.next_timeout == float("inf")
    assert messages(connection) == ["one", "two"]


def test_after_the_end_no_message_is_waited_for() -> None:
    connection = make(message_timeout=1, ping_interval=None, close_timeout=10)
    connection.receive_data(frame(TEXT, b"x", fin=False) + frame(CLOSE, close_payload(1000)), 0)
    connection.handle_timeout(5)
    assert outcome(connection) is Outcome.NORMAL


def test_parsing_is_interrupted_for_the_sake_of_others() -> None:
    connection = make()
    connection.receive_data(frame(PING, b"x") * (2 * FRAMES_IN_A_ROW + 1), 0)
    counts = [len(written(connection))]
    while connection.must_continue:
        connection.resume(0)
        counts.append(len(written(connection)))
    assert counts == [FRAMES_IN_A_ROW, FRAMES_IN_A_ROW, 1]
    assert connection.kept() == 0


def test_an_observer_is_told_of_each_frame_and_what_it_begins_with() -> None:
    seen: list[tuple[object, ...]] = []
    connection = make()
    connection.observer = lambda *frame: seen.append(frame)
    connection.receive_data(frame(TEXT, b"x" * 70) + frame(PING, b"?"), 0)
    connection.receive_data(frame(BINARY, b"abcd", fin=False)[:8], 0)
    connection.send_frame(TEXT, b"ab", fin=False)
    connection.outbox.clear()
    connection.send_header(BINARY, b"y" * 200)
    connection.observe_sent(BINARY, b"y" * 200)
    assert connection.outbox == b"\x82\x7e\x00\xc8"
    assert seen == [
        (False, TEXT, 70, True, b"x" * 64),
        (False, PING, 1, True, b"?"),
        (True, PONG, 1, True, b"?"),
        (False, BINARY, 4, False, b"ab"),
        (True, TEXT, 2, False, b"ab"),
        (True, BINARY, 200, True, b"y" * 64),
    ]


def test_what_is_kept_is_the_inbox_and_what_it_had_no_room_for() -> None:
    connection = make(max_queue=1)
    second = frame(BINARY, b"y" * 50)
    connection.receive_data(frame(BINARY, b"x" * 100) + second, 0)
    assert 100 + len(second) < connection.kept() < 500
    assert connection.next_message(0) == b"x" * 100
    connection.resume(0)
    assert 50 < connection.kept() < 300
    assert connection.next_message(0) == b"y" * 50
    assert connection.kept() == 0


# Lengths that a peer declares

BOUNDARIES = [
    *(2**20 + 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 1),
    *(2**62, 2**63 - 2**20, 2**63 - 14, 2**63 - 1),
]
PREFIXES: dict[str, tuple[Any, ...]] = {
    "first": (),
    "after a message": (TEXT, b"hi"),
    "after a ping": (PING, b"?"),
    "after an empty one": (BINARY,),
    "within a message": (BINARY, b"x" * 10),
}


def declared(opcode: int, length: int, *, fin: bool = True, masked: bool = True) -> bytes:
    """A frame's header with a length of 64 bits, and some of the payload."""
    first = bytes([opcode | (0x80 if fin else 0), 127 | (0x80 if masked else 0)])
    return first + length.to_bytes(8, "big") + (KEY if masked else b"") + b"x" * 20


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("length", BOUNDARIES)
def test_a_length_that_max_size_does_not_allow_ends_the_connection_with_1009(
    side: Side, prefix: str, length: int
) -> None:
    masked = side is Side.SERVER
    within = prefix == "within a message"
    given = PREFIXES[prefix]
    before = frame(*given, fin=not within, masked=masked) if given else b""
    opcode = CONTINUATION if within else TEXT
    data = before + declared(opcode, length, masked=masked)
    for cut in range(len(before), len(data)):
        connection = make(side)
        connection.receive_data(data[:cut], 0)
        taken = messages(connection)
        connection.receive_data(data[cut:], 0)
        taken += messages(connection)
        assert taken == {"after a message": ["hi"], "after an empty one": [b""]}.get(prefix, [])
        assert isinstance(connection.failure, PayloadTooBig)
        assert written(connection)[-1][1][:2] == (1009).to_bytes(2, "big")
        assert connection.kept() == 0


@pytest.mark.parametrize("beyond", [0, 1])
def test_without_max_size_a_message_may_have_any_length_that_a_frame_may_have(beyond: int) -> None:
    connection = make(max_size=None)
    connection.receive_data(frame(BINARY, b"x", fin=False), 0)
    connection.receive_data(declared(CONTINUATION, 2**63 - 2 + beyond), 0)
    assert connection.next_message(0) is None
    assert isinstance(connection.failure, PayloadTooBig) is (beyond == 1)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1])
def test_a_length_with_its_most_significant_bit_is_malformed(length: int) -> None:
    connection = make(max_size=None)
    connection.receive_data(declared(BINARY, length), 0)
    assert isinstance(connection.failure, ProtocolError)
    assert connection.failure.close_code == 1002


@pytest.mark.parametrize("opcode", [TEXT, CONTINUATION])
def test_a_frame_out_of_order_is_malformed_however_long_it_is(opcode: int) -> None:
    connection = make(max_size=10)
    if opcode == TEXT:
        connection.receive_data(frame(TEXT, b"x", fin=False), 0)
    connection.receive_data(declared(opcode, 2**63 - 1), 0)
    assert isinstance(connection.failure, ProtocolError)
    assert connection.failure.close_code == 1002


def test_nothing_is_kept_of_what_is_too_large_until_somebody_says_how_it_is_taken() -> None:
    connection = make(max_size=1000)
    connection.receive_data(frame(TEXT, b"hi"), 0)
    before = connection.kept()
    data = frame(BINARY, b"x" * 2**20)
    connection.receive_data(data[:100], 0)
    assert connection.held
    assert connection.must_pause()
    assert connection.kept() <= before + 200
    assert connection.next_message(0) == "hi"
    assert connection.next_message(0) is None
    assert isinstance(connection.failure, PayloadTooBig)


def test_fragments_are_judged_by_what_is_there_already() -> None:
    connection = make(max_size=1000)
    connection.receive_data(frame(BINARY, b"x" * 600, fin=False), 0)
    connection.receive_data(frame(CONTINUATION, b"x" * 400, fin=False), 0)
    assert not connection.held
    connection.receive_data(frame(CONTINUATION, b"x", fin=False)[:-1], 0)
    assert connection.held
    assert messages(connection) == []
    assert isinstance(connection.failure, PayloadTooBig)


def take_parts(connection: Connection, data: bytes) -> bytes:
    """Take a message bit by bit, as it arrives."""
    taken = bytearray()
    fin = False
    while not fin:
        connection.receive_data(data[:1000], 0)
        data = data[1000:]
        while not fin:
            part = connection.next_part(0)
            if part is None:
                if not connection.must_pause():
                    connection.resume(0)
                    part = connection.next_part(0)
                if part is None:
                    break
            piece, fin = part
            assert isinstance(piece, bytes)
            taken += piece
    assert not data
    return bytes(taken)


def test_a_message_that_is_taken_bit_by_bit_has_no_limit_and_the_next_one_has() -> None:
    connection = make(max_size=100, max_queue_bytes=2000)
    large = bytes(range(256)) * 40
    assert take_parts(connection, frame(BINARY, large)) == large
    pieces = [large[i : i + 3000] for i in range(0, len(large), 3000)]
    data = frame(BINARY, pieces[0], fin=False)
    data += b"".join(frame(CONTINUATION, piece, fin=False) for piece in pieces[1:])
    assert take_parts(connection, data + frame(CONTINUATION)) == large
    connection.receive_data(frame(BINARY, large)[:500], 0)
    assert connection.next_message(0) is None
    assert isinstance(connection.failure, PayloadTooBig)


def test_who_begins_to_take_bit_by_bit_and_takes_nothing_lifts_no_limit() -> None:
    connection = make(max_size=100)
    connection.receive_data(frame(BINARY, b"x" * 1000)[:8], 0)  # its header
    assert connection.held
    assert connection.next_part(0) is None
    assert not connection.held
    connection.resume(0)
    connection.inbox.restore_limit()
    connection.receive_data(b"x" * 50, 0)
    assert connection.held
    assert connection.next_message(0) is None
    assert isinstance(connection.failure, PayloadTooBig)


@pytest.mark.parametrize("size", [1000, 1001, 1002, 1003])
@pytest.mark.parametrize("fin", ["at once", "later", "restored before"])
def test_a_limit_that_is_restored_may_be_passed_already(size: int, fin: str) -> None:
    connection = make(max_size=1000)
    data = frame(BINARY, b"x" * size, fin=fin == "at once")
    connection.receive_data(data[:8], 0)  # its header
    assert connection.held is (size > 1000)
    assert connection.next_part(0) is None
    connection.resume(0)
    connection.receive_data(data[8:], 0)
    if fin == "restored before":
        connection.inbox.restore_limit()
    if fin != "at once":
        connection.receive_data(frame(CONTINUATION), 0)
    connection.inbox.restore_limit()
    message = connection.next_message(0)
    if size == 1000:
        assert message == b"x" * size
        return
    assert message is None
    assert isinstance(connection.failure, PayloadTooBig)
    assert connection.kept() == 0


def with_large_message() -> Connection:
    """A connection whose first message is too large, though whole: it was to be taken bit by bit,
    and nobody did."""
    connection = make(max_size=1000)
    data = frame(BINARY, b"x" * 2000)
    connection.receive_data(data[:8], 0)  # its header
    assert connection.next_part(0) is None
    connection.receive_data(data[8:], 0)
    connection.inbox.restore_limit()
    return connection


@pytest.mark.parametrize("end", ["close", "violation", "loss"])
def test_a_message_that_is_too_large_is_told_after_the_end_too(end: str) -> None:
    connection = with_large_message()
    if end == "close":
        connection.receive_data(frame(CLOSE, close_payload(1000)), 0)
    elif end == "violation":
        connection.receive_data(b"\xff\xff", 0)
    else:
        connection.lose("lost")
    assert connection.next_message(0) is None
    assert outcome(connection) is Outcome.ABNORMAL
    assert connection.failure is not None
    assert connection.failure.close_code == (1002 if end == "violation" else 1009)


def test_a_message_that_became_whole_meanwhile_can_still_be_taken_bit_by_bit() -> None:
    connection = with_large_message()
    assert connection.next_part(0) == (b"x" * 2000, True)
    connection.receive_data(frame(TEXT, b"next"), 0)
    assert connection.next_message(0) == "next"


def test_what_is_dropped_may_have_any_length() -> None:
    connection = make(max_size=100)
    connection.send_close(Close(1000), 0)
    connection.discard_input()
    connection.receive_data(declared(BINARY, 2**63 - 1), 0)
    connection.receive_data(b"x" * 10_000, 0)
    assert connection.failure is None
    connection = make(max_size=100)
    connection.receive_data(declared(BINARY, 2**62), 0)
    connection.discard_input()
    connection.resume(0)
    assert connection.failure is None
    assert connection.payload_left == 2**62 - 20


def test_the_size_of_what_was_read_is_not_more_than_there_is() -> None:
    for size in (3, -1, 2**31, 2**62):
        with pytest.raises(ValueError, match="data has 2 bytes"):
            make().receive_data(b"xx", 0, size)


def test_a_call_from_within_a_call_changes_no_buffer_under_its_feet() -> None:
    connection = make(max_queue=1)
    raised: list[Exception] = []

    def observe(*_: object) -> None:
        connection.resume(0)
        try:
            connection.receive_data(b"x" * 100, 0)
        except RuntimeError as exc:
            raised.append(exc)

    data = frame(TEXT, b"a") + frame(TEXT, b"b")
    connection.receive_data(data, 0)
    connection.observer = observe
    assert connection.next_message(0) == "a"
    connection.resume(0)
    assert connection.next_message(0) == "b"
    assert len(raised) == 1


# What memory is taken


@pytest.mark.parametrize(
    ("text", "width"),
    [("x" * 10_000, 1), ("é" * 10_000, 1), ("☃" * 10_000, 2), ("x" * 9_999 + "🐍", 4)],
)
@pytest.mark.parametrize("pieces", [1, 3, 700])
def test_text_is_counted_as_the_memory_that_it_takes(text: str, width: int, pieces: int) -> None:
    data = text.encode()
    connection = make()
    if pieces == 1:
        connection.receive_data(frame(TEXT, data), 0)
    else:
        step = len(data) // (pieces - 1)
        for start in range(0, len(data), step):
            opcode = CONTINUATION if start else TEXT
            connection.receive_data(frame(opcode, data[start : start + step], fin=False), 0)
        assert connection.kept() >= len(text)  # what is not joined yet is as wide as each piece
        connection.receive_data(frame(CONTINUATION), 0)
    assert width * len(text) <= connection.kept() <= width * len(text) + 400
    assert messages(connection) == [text]
    assert connection.kept() == 0


def test_empty_messages_take_memory_too() -> None:
    connection = make(max_queue=None, max_queue_bytes=10_000)
    connection.receive_data(frame(BINARY) * FRAMES_IN_A_ROW, 0)
    assert connection.kept() > 100 * FRAMES_IN_A_ROW
    while connection.must_continue:
        connection.resume(0)
    connection.receive_data(frame(BINARY) * FRAMES_IN_A_ROW, 0)
    assert connection.must_pause()


# What it costs


def parse_all(connection: Connection, data: bytes, step: int) -> None:
    for start in range(0, len(data), step):
        connection.receive_data(data[start : start + step], 0)
        while connection.must_continue:
            connection.resume(0)


# How each begins, what is repeated, and in pieces of how many bytes it comes.
FLOODS = {
    "empty messages": (b"", frame(BINARY), 2**14),
    "small messages": (b"", frame(TEXT, b"hi"), 2**14),
    "pings": (b"", frame(PING, b"?"), 2**14),
    "pongs": (b"", frame(PONG), 2**14),
    "text in fragments": (frame(TEXT, fin=False), frame(CONTINUATION, b"x", fin=False), 2**14),
    "fragments": (frame(BINARY, fin=False), frame(CONTINUATION, b"x", fin=False), 2**14),
    "empty fragments": (frame(TEXT, fin=False), frame(CONTINUATION, fin=False), 2**14),
    "byte by byte": (b"", frame(TEXT, b"hi"), 1),
    "a ping byte by byte": (b"", frame(PING, b"x" * 60), 1),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_what_a_flood_costs_is_linear(flood: str) -> None:
    start, repeated, step = FLOODS[flood]

    def parse(data: bytes) -> None:
        connection = make(max_queue=None, max_queue_bytes=None, max_fragments=None)
        parse_all(connection, data, step)
        assert connection.failure is None
        messages(connection)

    # Pieces of text are joined when there are 256 of them.
    size = {"text in fragments": 200, "byte by byte": 8, "a ping byte by byte": 2}.get(flood, 40)
    assert_linear(lambda size: start + repeated * size, parse, size)


def test_a_connection_that_ends_is_not_pinged_any_more() -> None:
    connection = make()
    connection.lose("lost")
    connection.set_keepalive(0, 1, 1)
    assert connection.next_timeout == float("inf")


def test_a_loss_is_told_as_such_also_where_a_message_was_too_large() -> None:
    connection = make(max_size=10)
    connection.receive_data(declared(BINARY, 2**20), 0)
    connection.lose("lost")
    assert connection.next_message(0) is None
    assert connection.failure is None
    assert connection.loss == "lost"
