from __future__ import annotations

import pytest

from creche.protocol.exceptions import PayloadTooBig, ProtocolError
from creche.protocol.frames import BINARY, CONTINUATION, TEXT
from creche.protocol.messages import PART_OVERHEAD, PART_SIZE, Inbox


def make_inbox(
    max_size: int | None = None,
    max_fragments: int | None = None,
    max_queue: int | None = None,
    max_queue_bytes: int | None = None,
) -> Inbox:
    return Inbox(max_size, max_fragments, max_queue, max_queue_bytes)


def add_fragments(inbox: Inbox, opcode: int, *fragments: bytes, fin: bool = True) -> None:
    for i, fragment in enumerate(fragments):
        inbox.begin_frame(opcode if i == 0 else CONTINUATION)
        inbox.add_payload(fragment, 0, len(fragment))
        inbox.end_frame(fin and i == len(fragments) - 1)


def add_message(inbox: Inbox, opcode: int, data: bytes) -> None:
    inbox.add_message(opcode, data, 0, len(data))


def test_whole_messages_are_taken_in_order() -> None:
    inbox = make_inbox()
    inbox.add_message(TEXT, b"<" + "é☃".encode() + b">", 1, 6)
    inbox.add_message(BINARY, b"?\xff?", 1, 2)
    inbox.add_message(TEXT, b"", 0, 0)
    assert [inbox.take_message() for _ in range(4)] == ["é☃", b"\xff", "", None]
    assert (inbox.messages, inbox.bytes) == (0, 0)


@pytest.mark.parametrize("cut", range(1, 9))
def test_text_is_joined_across_fragments_cut_inside_a_character(cut: int) -> None:
    data = "aé☃🐍".encode()
    inbox = make_inbox()
    add_fragments(inbox, TEXT, data[:cut], data[cut:])
    assert inbox.take_message() == "aé☃🐍"


def test_many_fragments_cost_no_more_than_their_text() -> None:
    inbox = make_inbox()
    add_fragments(inbox, TEXT, *[b"x"] * 10_000)
    assert len(inbox.parts) == 1
    assert inbox.take_message() == "x" * 10_000


def test_a_large_message_becomes_parts_before_it_is_whole() -> None:
    inbox = make_inbox()
    add_fragments(inbox, BINARY, b"a" * PART_SIZE, b"b", fin=False)
    assert len(inbox.parts) == 1
    assert inbox.bytes > PART_SIZE
    assert inbox.take_message() is None
    assert inbox.bytes == 0  # what is taken makes room for the rest
    add_fragments(inbox, CONTINUATION, b"c" * 10)
    assert inbox.take_message() == b"a" * PART_SIZE + b"b" + b"c" * 10


def test_a_message_as_large_as_the_bound_is_one_part() -> None:
    inbox = make_inbox(max_queue_bytes=10)
    add_fragments(inbox, BINARY, b"12345", b"67890")
    assert len(inbox.parts) == 1
    add_fragments(inbox, BINARY, b"12345678901", fin=False)
    assert len(inbox.parts) == 2


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x80", b"\xce"],
)
def test_text_that_is_not_utf_8_is_refused_whole_and_in_fragments(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not UTF-8") as caught:
        add_message(make_inbox(), TEXT, data)
    assert caught.value.close_code == 1007
    with pytest.raises(ProtocolError, match="not UTF-8") as caught:
        add_fragments(make_inbox(), TEXT, *[data[i : i + 1] for i in range(len(data))])
    assert caught.value.close_code == 1007


def test_invalid_utf_8_is_noticed_with_the_byte_that_makes_it_so() -> None:
    inbox = make_inbox()
    begun = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4"
    add_fragments(inbox, TEXT, begun, fin=False)
    with pytest.raises(ProtocolError, match="not UTF-8"):
        inbox.add_payload(b"\x90", 0, 1)


def test_fragments_must_belong_to_a_message() -> None:
    with pytest.raises(ProtocolError, match="without a message to continue"):
        make_inbox().begin_frame(CONTINUATION)
    inbox = make_inbox()
    add_fragments(inbox, TEXT, b"a", fin=False)
    with pytest.raises(ProtocolError, match="before the last one was finished"):
        inbox.begin_frame(BINARY)


def test_max_size_counts_the_bytes_of_the_joined_message() -> None:
    inbox = make_inbox(max_size=4)
    add_fragments(inbox, TEXT, "é".encode(), fin=False)
    assert inbox.room() == 2
    add_fragments(inbox, CONTINUATION, "é".encode())
    assert inbox.room() == 4
    assert inbox.take_message() == "éé"


def test_a_message_that_is_taken_bit_by_bit_may_have_any_size_and_the_next_one_not() -> None:
    inbox = make_inbox(max_size=4)
    add_fragments(inbox, BINARY, b"123", fin=False)
    assert inbox.take_part() == (b"123", False)
    assert inbox.is_unlimited()
    add_fragments(inbox, CONTINUATION, b"45678")
    assert not inbox.is_unlimited()
    add_fragments(inbox, BINARY, b"1", fin=False)
    assert inbox.take_part() == (b"45678", True)  # of the one before
    assert inbox.room() == 3


def test_max_fragments_counts_the_frames_of_a_message() -> None:
    inbox = make_inbox(max_fragments=3)
    add_fragments(inbox, BINARY, b"1", b"2", b"3")
    assert inbox.take_message() == b"123"
    with pytest.raises(PayloadTooBig, match="more than max_fragments=3 frames"):
        add_fragments(inbox, BINARY, b"1", b"2", b"3", b"4")


def test_the_inbox_is_full_by_messages_or_by_bytes_and_low_at_a_quarter() -> None:
    inbox = make_inbox(max_queue=4, max_queue_bytes=4 * (PART_OVERHEAD + 100))
    assert not inbox.full
    assert inbox.is_low()
    for _ in range(4):
        add_message(inbox, BINARY, b"x")
    assert inbox.full
    inbox.take_message()
    assert not inbox.full
    assert not inbox.is_low()
    inbox.take_message()
    inbox.take_message()
    assert inbox.is_low()
    add_message(inbox, BINARY, b"x" * 3 * (PART_OVERHEAD + 100))
    assert inbox.full
    assert not inbox.is_low()
    inbox.clear()
    assert inbox.is_low()
    assert inbox.take_message() is None


def test_without_bounds_the_inbox_is_never_full() -> None:
    inbox = make_inbox()
    for _ in range(100):
        add_message(inbox, BINARY, b"x")
    assert not inbox.full
    assert inbox.is_low()
