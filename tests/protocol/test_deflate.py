"""permessage-deflate (RFC 7692), without a network."""

from __future__ import annotations

import itertools
import random
import tracemalloc
import zlib
from typing import Any

import pytest

from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.exceptions import NegotiationError
from creche.handshake.extensions import agree_on, choose_from, format_offers
from creche.protocol.connection import Connection
from creche.protocol.deflate import Deflate
from creche.protocol.exceptions import PayloadTooBig, ProtocolError
from creche.protocol.extensions import Extension
from creche.protocol.frames import BINARY, CONTINUATION, PING, TEXT, append_frame
from creche.protocol.parsing import FRAMES_IN_A_ROW
from creche.protocol.states import Side
from support import assert_linear

RSV1 = Extension.RSV1
TEXTS = ["", "x" * 127, "x" * 128, "é☃🐍" * 1000, "x" * 200_000]
MESSAGES: list[str | bytes] = [
    *TEXTS,
    *(text.encode() for text in TEXTS),
    random.Random(1).randbytes(100_000),
]


def pair(
    client: PerMessageDeflate | None = None,
    server: PerMessageDeflate | None = None,
    **options: Any,
) -> tuple[Connection, Connection]:
    ours, theirs = [client or PerMessageDeflate()], [server or PerMessageDeflate()]
    answer, chosen = choose_from(theirs, format_offers(ours))
    agreed = agree_on(ours, answer)
    assert len(agreed) == len(chosen) == 1
    options.setdefault("max_size", None)
    return (
        Connection(Side.CLIENT, bytearray(), 0, extensions=agreed, **options),
        Connection(Side.SERVER, bytearray(), 0, extensions=chosen, **options),
    )


def send(connection: Connection, message: str | bytes) -> None:
    if isinstance(message, str):
        connection.send_message(TEXT, message.encode())
    else:
        connection.send_message(BINARY, message)


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytearray:
    out = bytearray()
    append_frame(out, opcode, payload, b"abcd", fin)
    return out


def deflated(data: bytes, bits: int = 15) -> bytes:
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def everything(connection: Connection) -> list[str | bytes]:
    """All messages, with as many pauses as it takes."""
    found: list[str | bytes] = []
    while True:
        before = connection.kept()
        message = connection.next_message(0)
        if message is not None:
            found.append(message)
        else:
            connection.resume(0)
            if connection.kept() == before:
                return found


# Negotiation


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("", "server_max_window_bits=12"),
        ("client_max_window_bits", "server_max_window_bits=12; client_max_window_bits=12"),
        ("client_max_window_bits=9", "server_max_window_bits=12; client_max_window_bits=9"),
        ("client_max_window_bits=8", "server_max_window_bits=12; client_max_window_bits=8"),
        ("server_max_window_bits=9", "server_max_window_bits=9"),
        ("server_max_window_bits=15", "server_max_window_bits=12"),
        ("server_max_window_bits=8", None),  # zlib cannot deflate with that
        (
            "server_no_context_takeover; client_no_context_takeover",
            "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12",
        ),
        ("server_max_window_bits", None),
        ("server_max_window_bits=7", None),
        ("server_max_window_bits=16", None),
        ("server_max_window_bits=09", None),
        ("client_max_window_bits=x", None),
        ("server_no_context_takeover=1", None),
        ("client_no_context_takeover; client_no_context_takeover", None),
        ("unknown", None),
    ],
)
def test_what_a_server_answers_to_an_offer(offer: str, answer: str | None) -> None:
    header = "permessage-deflate" + (f"; {offer}" if offer else "")
    given, chosen = choose_from([PerMessageDeflate()], header)
    if answer is None:
        assert (given, chosen) == ("", [])
    else:
        assert given == f"permessage-deflate; {answer}"
        assert isinstance(chosen[0], Deflate)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "did not accept server_no_context_takeover"),
        ("client_max_window_bits", "has no value"),
        ("server_max_window_bits=8; server_max_window_bits=8", "stands there twice"),
        ("server_max_window_bits=99", "is not 8 to 15"),
        ("client_no_context_takeover=1", "has a value"),
        ("other=1", "unknown parameter other"),
    ],
)
def test_a_client_refuses_an_answer_that_it_did_not_ask_for(answer: str, why: str) -> None:
    factory = PerMessageDeflate(server_no_context_takeover=True, client_max_window_bits=11)
    with pytest.raises(NegotiationError, match=why):
        agree_on([factory], "permessage-deflate" + (f"; {answer}" if answer else ""))


@pytest.mark.parametrize(
    ("allowed", "used"),
    [("", 11), ("; client_max_window_bits=15", 11), ("; client_max_window_bits=10", 10)],
)
def test_a_client_uses_no_larger_window_than_it_said_whatever_is_allowed(
    allowed: str, used: int
) -> None:
    factory = PerMessageDeflate(client_max_window_bits=11)
    [extension] = agree_on([factory], f"permessage-deflate; server_max_window_bits=12{allowed}")
    # What comes again within the window is found, and farther away not.
    for size, found in [(2**used - 300, True), (2 * 2**used, False)]:
        encoded = extension.encode(random.Random(1).randbytes(size) * 2)
        assert encoded is not None
        assert (len(encoded) < 1.5 * size) is found


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"server_max_window_bits": 8}, ValueError, "must be 9 to 15, not 8"),
        ({"client_max_window_bits": 16}, ValueError, "must be 9 to 15, not 16"),
        ({"level": 0}, ValueError, "level must be 1 to 9"),
        ({"server_max_window_bits": None, "level": 0}, ValueError, "level must be 1 to 9"),
        ({"memory_level": 10}, ValueError, "memory_level must be 1 to 9"),
        ({"threshold": -1}, ValueError, "threshold must be 0"),
        ({"level": None}, TypeError, "level must be an int, not NoneType"),
        ({"server_max_window_bits": True}, TypeError, "must be an int, not bool"),
    ],
)
def test_wrong_arguments_are_told(arguments: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        PerMessageDeflate(**arguments)


# Messages


@pytest.mark.parametrize("takeover", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("bits", [9, 12, 15, None])
def test_messages_go_both_ways_with_all_parameters(
    takeover: tuple[bool, bool], bits: int | None
) -> None:
    theirs = PerMessageDeflate(
        server_no_context_takeover=takeover[0],
        client_no_context_takeover=takeover[1],
        server_max_window_bits=bits,
        client_max_window_bits=bits,
        threshold=0,
    )
    for ours in (PerMessageDeflate(), theirs):
        client, server = pair(ours, theirs)
        for source, target in ((client, server), (server, client)):
            for message in MESSAGES * 2:
                send(source, message)
                target.receive_data(source.outbox, 0)
                source.outbox.clear()
                assert everything(target) == [message]


@pytest.mark.parametrize(("answer", "bits"), [("", 15), ("; server_max_window_bits=14", 14)])
def test_a_server_that_knows_no_windows_may_accept_the_second_offer(answer: str, bits: int) -> None:
    factory = PerMessageDeflate(server_no_context_takeover=True, server_max_window_bits=9)
    assert format_offers([factory]) == (
        "permessage-deflate; server_max_window_bits=9"
        "; server_no_context_takeover; client_max_window_bits=12"
        ", permessage-deflate; server_no_context_takeover; client_max_window_bits=12"
    )
    extensions = agree_on([factory], f"permessage-deflate; server_no_context_takeover{answer}")
    client = Connection(Side.CLIENT, bytearray(), 0, extensions=extensions, max_size=None)
    message = random.Random(1).randbytes(2**bits - 300) * 2  # the same, from as far as can be
    payload = deflated(message, bits)
    assert len(payload) < 1.2 * len(message) / 2
    out = bytearray()
    append_frame(out, BINARY | RSV1, payload)
    client.receive_data(out, 0)
    assert everything(client) == [message]


def test_a_peer_with_a_window_of_8_bits_is_sent_plain_messages() -> None:
    factory = PerMessageDeflate()
    answer = "permessage-deflate; server_max_window_bits=8; client_max_window_bits=8"
    client = Connection(
        Side.CLIENT, bytearray(), 0, extensions=agree_on([factory], answer), max_size=None
    )
    send(client, "x" * 1000)
    assert client.outbox[0] == 0x80 | TEXT


def test_a_message_is_compressed_from_the_threshold_on() -> None:
    client, _ = pair(PerMessageDeflate(threshold=10))
    for message, bit in (("x" * 9, 0), ("x" * 10, RSV1)):
        send(client, message)
        assert client.outbox[0] & RSV1 == bit
        client.outbox.clear()


def test_what_was_sent_before_helps_unless_each_message_stands_alone() -> None:
    data = random.Random(2).randbytes(1000)
    sizes = []
    for alone in (False, True):
        client, _ = pair(PerMessageDeflate(client_no_context_takeover=alone))
        for _ in range(2):
            client.outbox.clear()
            send(client, data)
        sizes.append(len(client.outbox))
    assert sizes[0] < 100 < 1000 < sizes[1]


def test_messages_arrive_whole_however_they_are_cut() -> None:
    client, _ = pair()
    for message in ("é" * 300, b"\xff" * 500, "", "é" * 300):
        send(client, message)
    data = bytes(client.outbox)
    for cut in range(len(data)):
        _, server = pair()
        server.receive_data(data[:cut], 0)
        server.receive_data(data[cut:], 0)
        assert everything(server) == ["é" * 300, b"\xff" * 500, "", "é" * 300], cut


def test_a_message_may_come_in_fragments_with_pings_between() -> None:
    payload = deflated("é☃".encode() * 100)
    _, server = pair()
    for start in range(len(payload)):
        fin = start == len(payload) - 1
        opcode = CONTINUATION if start else TEXT | RSV1
        server.receive_data(frame(opcode, payload[start : start + 1], fin), 0)
        server.receive_data(frame(PING, b"?"), 0)
    assert everything(server) == ["é☃" * 100]
    assert server.outbox.count(b"?") == len(payload)


def test_an_empty_last_fragment_ends_a_message() -> None:
    _, server = pair()
    server.receive_data(frame(BINARY | RSV1, deflated(b"abc"), fin=False), 0)
    server.receive_data(frame(CONTINUATION, b""), 0)
    assert everything(server) == [b"abc"]


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 2**17, 2**20, 3 * 2**20])
def test_no_byte_is_lost_where_pieces_meet(size: int) -> None:
    client, server = pair()
    for data in (bytes(size), random.Random(3).randbytes(size)):
        send(client, data)
        send(client, b"x" * 200)
        server.receive_data(client.outbox, 0)
        client.outbox.clear()
        assert everything(server) == [data, b"x" * 200]


def test_text_that_is_not_utf8_is_refused_though_it_is_compressed() -> None:
    _, server = pair()
    server.receive_data(frame(TEXT | RSV1, deflated(b"a\xff" * 100)), 0)
    assert server.next_message(0) is None
    assert server.failure is not None
    assert server.failure.close_code == 1007


@pytest.mark.parametrize(
    "payload", [b"\xff\xff\xff", b"\x07", deflated(b"abc" * 99)[:-5] + b"~~~~~"]
)
def test_a_broken_message_is_refused(payload: bytes) -> None:
    _, server = pair()
    server.receive_data(frame(BINARY | RSV1, payload), 0)
    assert server.next_message(0) is None
    assert isinstance(server.failure, ProtocolError)
    assert server.failure.close_code == 1007
    assert "a compressed message that is broken" in str(server.failure)


# Final blocks (RFC 7692 7.2.3.4): zlib ends a stream there; the connection goes on.


def final(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize("after", [b"\x00", b""])
def test_messages_follow_one_with_a_final_block(after: bytes) -> None:
    _, server = pair()
    for _ in range(3):
        server.receive_data(frame(TEXT | RSV1, final(b"Hello" * 100) + after), 0)
        server.receive_data(frame(TEXT | RSV1, deflated(b"again" * 100)), 0)
    assert everything(server) == ["Hello" * 100, "again" * 100] * 3


def test_a_message_may_go_on_after_a_final_block() -> None:
    _, server = pair()
    server.receive_data(frame(TEXT | RSV1, final(b"one") + final(b"two") + deflated(b"three")), 0)
    assert everything(server) == ["onetwothree"]


# Memory


def test_contexts_are_made_with_the_first_compressed_message_and_not_kept_without_takeover() -> (
    None
):
    def kept(**arguments: Any) -> tuple[int, int]:
        client, server = pair(PerMessageDeflate(threshold=100, **arguments))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        found = []
        for message in ("x" * 99, "x" * 100):
            send(client, message)
            server.receive_data(client.outbox, 0)
            client.outbox.clear()
            assert everything(server) == [message]
            found.append(tracemalloc.get_traced_memory()[0] - before)
        tracemalloc.stop()
        return found[0], found[1]

    # zlib takes its memory from Python only in part: the objects tell.
    idle, used = kept()
    assert used > idle + 100
    idle, used = kept(client_no_context_takeover=True)
    assert used < idle + 100


def test_a_bomb_is_not_inflated_further_than_somebody_takes() -> None:
    compressor = zlib.compressobj(9, wbits=-15)
    block = compressor.compress(bytes(2**26)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    bomb = frame(BINARY | RSV1, block * 16)  # 1 GiB; each block refers to zeros before it
    _, server = pair()
    server.inbox.max_size = 2**20
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    position = 0
    while server.next_message(0) is None and not server.ended:
        server.receive_data(bomb[position : position + 2**17], 0)
        position += 2**17
        server.resume(0)
    peak = tracemalloc.get_traced_memory()[1] - start
    tracemalloc.stop()
    assert isinstance(server.failure, PayloadTooBig)
    assert peak < 3 * 2**20


def test_what_is_discarded_is_not_inflated() -> None:
    client, server = pair()
    send(client, "é" * 100_000)
    send(client, b"x" * 200)
    data = bytes(client.outbox)
    for cut in (0, 3, len(data) // 2, len(data) - 1):
        _, server = pair(max_queue_bytes=1000)
        server.receive_data(data[:cut], 0)
        server.discard_input()
        server.receive_data(data[cut:], 0)
        assert everything(server) == []
        assert server.failure is None
        assert server.inbox.between_messages
        assert server.kept() == 0


# Work that a peer chooses

# An empty final block: each ends a stream of DEFLATE, and the next begins another.
EMPTY_FINAL = b"\x03\x00"


def test_empty_final_blocks_are_read_some_at_a_time() -> None:
    _, server = pair()
    count = 10_000
    server.receive_data(frame(BINARY | RSV1, EMPTY_FINAL * count), 0)
    resumed = 0
    while server.must_continue:
        server.resume(0)
        resumed += 1
    assert server.next_message(0) == b""
    # A new decompressor takes about as long as a small frame.
    assert resumed >= count / (2 * FRAMES_IN_A_ROW) - 1


@pytest.mark.parametrize("block", [EMPTY_FINAL, b"\x4b\x04\x00", b"\x01\x00\x00\xff\xff"])
def test_what_final_blocks_cost_is_linear(block: bytes) -> None:
    def inflate(data: bytes) -> None:
        _, server = pair()
        server.receive_data(data, 0)
        while server.must_continue:
            server.resume(0)
        assert set(server.next_message(0) or b"") <= set(b"a")
        assert server.failure is None

    def make(size: int) -> bytes:
        return bytes(frame(BINARY | RSV1, block * size))

    assert_linear(make, inflate, 500)


@pytest.mark.parametrize("size", [999, 1000, 1001])
def test_a_message_is_inflated_up_to_max_size_and_no_further(size: int) -> None:
    _, server = pair(max_size=1000)
    server.receive_data(frame(BINARY | RSV1, deflated(b"x" * size)), 0)
    assert server.held is (size > 1000)
    assert server.kept() < 2000
    if size > 1000:
        assert server.next_message(0) is None
        assert isinstance(server.failure, PayloadTooBig)
    else:
        assert server.next_message(0) == b"x" * size


def test_a_compressed_message_may_be_longer_than_what_it_means() -> None:
    _, server = pair(max_size=100)
    server.receive_data(frame(BINARY | RSV1, EMPTY_FINAL * 1000 + deflated(b"x" * 100)), 0)
    while server.must_continue:
        server.resume(0)
    assert server.next_message(0) == b"x" * 100


def test_an_inflated_message_that_is_taken_bit_by_bit_has_no_limit() -> None:
    _, server = pair(max_size=100)
    server.receive_data(frame(BINARY | RSV1, deflated(b"x" * 1000)), 0)
    assert server.held
    taken = b""
    fin = False
    while not fin:
        part = server.next_part(0)
        if part is None:
            server.resume(0)
        else:
            taken += bytes(part[0])  # type: ignore[arg-type]
            fin = part[1]
    assert taken == b"x" * 1000
    server.receive_data(frame(BINARY | RSV1, deflated(b"x" * 1000)), 0)
    server.discard_input()
    server.resume(0)
    assert server.kept() == 0
