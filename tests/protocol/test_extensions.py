from __future__ import annotations

from typing import Any

import pytest

from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.exceptions import InvalidHeader, NegotiationError
from creche.handshake.extensions import (
    MAX_OFFERS,
    ExtensionFactory,
    Parameters,
    agree_on,
    check_extensions,
    choose_from,
    format_offers,
    parse_extensions,
)
from creche.protocol.connection import Connection
from creche.protocol.exceptions import ProtocolError
from creche.protocol.extensions import Extension
from creche.protocol.frames import BINARY, CONTINUATION, PING, append_frame
from creche.protocol.states import Side

# Header


@pytest.mark.parametrize(
    ("header", "extensions"),
    [
        ("", []),
        ("a", [("a", [])]),
        ("a, b", [("a", []), ("b", [])]),
        (" a ; b = c;d,\te", [("a", [("b", "c"), ("d", None)]), ("e", [])]),
        ('a; b="c"', [("a", [("b", "c")])]),
        (",a,,b,", [("a", []), ("b", [])]),
        ("a; b; b=1", [("a", [("b", None), ("b", "1")])]),
    ],
)
def test_the_header_is_parsed(header: str, extensions: Any) -> None:
    assert parse_extensions(header) == extensions


@pytest.mark.parametrize(
    "header",
    [
        ";",
        "a b",
        "a;",
        "a; =1",
        "a; b=",
        'a; b="',
        'a; b=""',
        'a; b="c d"',
        "a=b",
        "é",
        '"',
        "a\n",
        ",\n",
    ],
)
def test_a_malformed_header_is_refused(header: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        parse_extensions(header)
    assert str(caught.value) == (
        f"the Sec-WebSocket-Extensions header {header!r} is not acceptable: it is malformed"
    )


# An extension of one's own


class Tag(Extension):
    """Puts a tag before each message that is not empty."""

    def __init__(self, tag: bytes, bit: int) -> None:
        self.reserved_bits = bit
        self._tag = tag
        self._missing = b""
        self._data = b""

    def encode(self, payload: bytes | memoryview) -> bytes | None:
        return self._tag + bytes(payload) if payload else None

    def begin(self) -> None:
        self._missing = self._tag

    def feed(self, data: bytes) -> None:
        size = min(len(self._missing), len(data))
        if data[:size] != self._missing[:size]:
            raise ProtocolError("another tag")
        self._missing = self._missing[size:]
        self._data = data[size:]

    def finish(self) -> None:
        if self._missing:
            raise ProtocolError("no tag")

    def read(self, limit: int) -> bytes:
        piece, self._data = self._data[:limit], self._data[limit:]
        return piece


class TagFactory(ExtensionFactory):
    def __init__(self, name: str, tag: str, bit: int = Extension.RSV2) -> None:
        self.name = name
        self._tag = tag
        self._bit = bit

    def offers(self) -> list[Parameters]:
        return [[("tag", self._tag)], []]

    def agree(self, parameters: Parameters) -> Extension:
        if dict(parameters) != {"tag": self._tag}:
            raise NegotiationError("another tag")
        return Tag(self._tag.encode(), self._bit)

    def choose(self, parameters: Parameters) -> tuple[Parameters, Extension] | None:
        if dict(parameters).get("tag") != self._tag:
            return None
        return parameters, Tag(self._tag.encode(), self._bit)


TAG = TagFactory("t", "abc")
RIVAL = TagFactory("rival", "abc")


def test_both_sides_come_to_the_same_extensions() -> None:
    client = [TAG, PerMessageDeflate()]
    offer = format_offers(client)
    assert offer.startswith("t; tag=abc, t, permessage-deflate; ")
    answer, chosen = choose_from([PerMessageDeflate(), TAG], offer)
    assert answer.startswith("t; tag=abc, permessage-deflate; ")  # the client's order
    agreed = agree_on(client, answer)
    assert [type(e) for e in agreed] == [type(e) for e in chosen]


def test_a_server_declines_what_it_does_not_know_or_cannot_combine() -> None:
    assert choose_from([], "t; tag=abc") == ("", [])
    assert choose_from([TAG], "t; tag=x, other") == ("", [])
    answer, chosen = choose_from([TAG, RIVAL], "rival; tag=abc, t; tag=abc")
    assert answer == "rival; tag=abc"
    assert len(chosen) == 1


def test_of_several_offers_the_first_that_suits_is_taken() -> None:
    assert choose_from([TAG], "t; tag=x, t; tag=abc, t; tag=abc")[0] == "t; tag=abc"


def test_so_many_offers_are_looked_at() -> None:
    few = ", ".join(["t; tag=x"] * (MAX_OFFERS - 1) + ["t; tag=abc"])
    assert choose_from([TAG], few)[0] == "t; tag=abc"
    assert choose_from([TAG], "other, " + few)[0] == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("other", "not asked for: other"),
        ("t; tag=abc, t; tag=abc", "not asked for: t"),
        ("t; tag=x", "another tag"),
        ("t; tag=abc, rival; tag=abc", "the same bit"),
    ],
)
def test_a_client_refuses_other_answers(answer: str, why: str) -> None:
    with pytest.raises(NegotiationError, match=why):
        agree_on([TAG, RIVAL], answer)


def test_the_option_is_checked() -> None:
    with pytest.raises(TypeError, match="must hold ExtensionFactory objects, not str"):
        check_extensions(["xor"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="same name"):
        check_extensions([TAG, TAG])


# Messages


def pair(*factories: ExtensionFactory) -> tuple[Connection, Connection]:
    """A client and a server that have agreed on these."""
    answer, chosen = choose_from(factories, format_offers(factories))
    agreed = agree_on(factories, answer)
    return (
        Connection(Side.CLIENT, bytearray(), 0, extensions=agreed),
        Connection(Side.SERVER, bytearray(), 0, extensions=chosen),
    )


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_message_goes_through_several_extensions(size: int) -> None:
    client, server = pair(
        TAG, TagFactory("u", "de", Extension.RSV3), PerMessageDeflate(threshold=0)
    )
    data = b"x" * size
    client.send_message(BINARY, data)
    assert client.outbox[0] & 0x70 == 0x70
    for i in range(len(client.outbox)):
        server.receive_data(client.outbox[i : i + 1], 0)
    assert server.next_message(0) == data


@pytest.mark.parametrize(("payload", "why"), [(b"abd", "another tag"), (b"ab", "no tag")])
def test_a_message_that_an_extension_cannot_read_fails_the_connection(
    payload: bytes, why: str
) -> None:
    _, server = pair(TAG)
    data = bytearray()
    append_frame(data, BINARY | Extension.RSV2, payload, b"abcd")
    server.receive_data(data, 0)
    assert server.next_message(0) is None
    assert str(server.failure) == why


def test_a_message_may_be_left_as_it_is() -> None:
    client, server = pair(TAG)
    client.send_message(BINARY, b"")
    client.send_message(BINARY, b"x", False)
    assert [client.outbox[0], client.outbox[6]] == [0x80 | BINARY] * 2
    server.receive_data(client.outbox, 0)
    assert [server.next_message(0), server.next_message(0)] == [b"", b"x"]


def test_of_several_extensions_those_read_a_message_whose_bits_it_has() -> None:
    client, server = pair(TAG, TagFactory("u", "de", Extension.RSV3))
    for bits, payload in [(0, b"x"), (Extension.RSV2, b"abcx"), (Extension.RSV3, b"dex")]:
        client.send_frame(BINARY | bits, payload)
        server.receive_data(client.outbox, 0)
        client.outbox.clear()
        assert server.next_message(0) == b"x"


@pytest.mark.parametrize("opcode", [PING, CONTINUATION])
def test_a_bit_of_messages_may_only_stand_in_their_first_frame(opcode: int) -> None:
    _, server = pair(TAG)
    data = bytearray()
    append_frame(data, BINARY, b"", b"abcd", fin=False)
    append_frame(data, opcode | Extension.RSV2, b"", b"abcd")
    server.receive_data(data, 0)
    assert server.next_message(0) is None
    assert isinstance(server.failure, ProtocolError)
    assert "has a reserved bit of messages set" in str(server.failure)


def test_a_bit_of_no_extension_is_refused() -> None:
    _, server = pair(TAG)
    data = bytearray()
    append_frame(data, BINARY | Extension.RSV3, b"", b"abcd")
    server.receive_data(data, 0)
    assert "that no extension gave a meaning to" in str(server.failure)


@pytest.mark.parametrize("bits", [(0,), (0x80,), (0x140,), (0x60,), (0x40, 0x40), ("x",)])
def test_reserved_bits_that_are_none_are_refused(bits: tuple[Any, ...]) -> None:
    extensions = [Tag(b"", bit) for bit in bits]
    with pytest.raises(ValueError, match="Tag: reserved_bits must be one of"):
        Connection(Side.SERVER, bytearray(), 0, extensions=extensions)


class Lying(bytes):
    """Bytes that say another length than they have."""

    def __len__(self) -> int:
        return 3


class Wrong(Tag):
    """An extension that goes wrong where it is told to."""

    def __init__(self, encoded: Any = None, read: Any = None, fails: str = "") -> None:
        super().__init__(b"", Extension.RSV2)
        self._encoded = encoded
        self._read: Any = read
        self._fails = fails

    def encode(self, payload: bytes | memoryview) -> bytes | None:
        encoded: bytes | None = self._encoded(payload) if callable(self._encoded) else self._encoded
        return encoded

    def _fail(self, where: str) -> None:
        if self._fails == where:
            raise ValueError(where)

    def begin(self) -> None:
        self._fail("begin")
        super().begin()

    def feed(self, data: bytes) -> None:
        self._fail("feed")
        super().feed(data)

    def finish(self) -> None:
        self._fail("finish")

    def read(self, limit: int) -> bytes:
        self._fail("read")
        read, self._read = self._read, b""
        return read  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "encoded", [Lying(b"payload"), bytearray(b"payload"), memoryview(b"p-a-y-l-o-a-d")[::2]]
)
def test_what_an_extension_gives_is_sent_whole(encoded: Any) -> None:
    connection = Connection(Side.SERVER, bytearray(), 0, extensions=[Wrong(encoded)])
    connection.send_message(BINARY, b"x")
    assert connection.outbox == bytes([0x80 | BINARY | Extension.RSV2, 7]) + b"payload"


def test_what_an_extension_gives_that_is_no_bytes_leaves_nothing() -> None:
    connection = Connection(Side.SERVER, bytearray(), 0, extensions=[Wrong("text")])
    with pytest.raises(TypeError):
        connection.send_message(BINARY, b"x")
    assert not connection.outbox


def test_an_extension_does_not_send_while_it_encodes() -> None:
    def encode(payload: bytes) -> bytes:
        connection.send_message(BINARY, b"inner")
        return payload

    connection = Connection(Side.SERVER, bytearray(), 0, extensions=[Wrong(encode)])
    with pytest.raises(RuntimeError, match="while it encodes"):
        connection.send_message(BINARY, b"x")
    assert not connection.outbox


@pytest.mark.parametrize("read", [Lying(b"payload"), bytearray(b"payload")])
def test_what_an_extension_decodes_is_received_whole(read: Any) -> None:
    connection = Connection(Side.SERVER, bytearray(), 0, extensions=[Wrong(read=read)])
    frame = bytearray()
    append_frame(frame, BINARY | Extension.RSV2, b"x", b"abcd")
    connection.receive_data(frame, 0)
    assert connection.next_message(0) == b"payload"


@pytest.mark.parametrize("fails", ["begin", "feed", "finish", "read", "type"])
def test_an_extension_that_fails_ends_the_connection_with_1011(fails: str) -> None:
    read = "text" if fails == "type" else b""
    connection = Connection(Side.SERVER, bytearray(), 0, extensions=[Wrong(read=read, fails=fails)])
    frame = bytearray()
    append_frame(frame, BINARY, b"before", b"abcd")
    append_frame(frame, BINARY | Extension.RSV2, b"x", b"abcd")
    append_frame(frame, BINARY, b"after", b"abcd")
    connection.receive_data(frame, 0)
    assert connection.next_message(0) == b"before"
    assert connection.next_message(0) is None
    assert connection.failure is not None
    assert connection.failure.close_code == 1011
    assert isinstance(connection.failure.__cause__, ValueError | TypeError)


class Slow(Tag):
    """An extension that gives nothing for a while."""

    def __init__(self, bit: int, times: int) -> None:
        super().__init__(b"", bit)
        self._times = times

    def read(self, limit: int) -> bytes | None:  # type: ignore[override]
        if self._times:
            self._times -= 1
            return None
        return super().read(limit)


class Crumbs(Tag):
    """An extension that gives single bytes."""

    def read(self, limit: int) -> bytes:
        return super().read(1)


class Swallowing(Tag):
    """An extension that gives nothing but the end."""

    def read(self, limit: int) -> bytes:
        super().read(limit)
        return b""


@pytest.mark.parametrize("first", [True, False])
def test_of_several_extensions_each_may_let_others_have_their_turn(first: bool) -> None:
    slow, other = Slow(Extension.RSV2, 20), Tag(b"", Extension.RSV3)
    extensions: list[Extension] = [other, slow] if first else [slow, other]
    connection = Connection(Side.SERVER, bytearray(), 0, extensions=extensions)
    frame = bytearray()
    append_frame(frame, BINARY | Extension.RSV2 | Extension.RSV3, b"payload", b"abcd")
    connection.receive_data(frame, 0)
    turns = 0
    while connection.must_continue:
        connection.resume(0)
        turns += 1
    assert turns > 0
    assert connection.next_message(0) == b"payload"


def test_an_extension_that_gives_nothing_for_much_holds_nobody_up() -> None:
    extensions = [Swallowing(b"", Extension.RSV2), Crumbs(b"", Extension.RSV3)]
    connection = Connection(Side.SERVER, bytearray(), 0, extensions=extensions)
    frame = bytearray()
    append_frame(frame, BINARY | Extension.RSV2 | Extension.RSV3, b"x" * 1000, b"abcd")
    connection.receive_data(frame, 0)
    assert connection.must_continue
    while connection.must_continue:
        connection.resume(0)
    assert connection.next_message(0) == b""
