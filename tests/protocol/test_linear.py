"""What a peer sends in the opening handshake costs no more than in proportion to its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from creche.handshake.client import ClientHandshake
from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.exceptions import HandshakeError, InvalidHeader, InvalidStatus, Rejection
from creche.handshake.extensions import choose_from, parse_extensions
from creche.handshake.http import Response
from creche.handshake.proxies import ConnectHandshake, parse_proxy
from creche.handshake.reading import MAX_BODY_BYTES, HeadReader
from creche.handshake.redirects import redirected
from creche.handshake.rules import accept_key
from creche.handshake.server import ServerHandshake
from creche.handshake.start_lines import may_be_request_line
from creche.handshake.uri import parse_uri
from support import REQUEST, assert_linear

NO_LIMIT = 2**40
URI = parse_uri("ws://localhost/")


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


# What a client sends

FIELDS: dict[str, Callable[[int], str]] = {
    "many names": lambda n: "".join(f"X-{i}: a\r\n" for i in range(n)),
    "one name": lambda n: "X: a\r\n" * n,
    "a long value": lambda n: f"X: {'a' * 20 * n}\r\n",
    "folded": lambda n: "X: a\r\n" + " a\r\n" * n,
    "white space": lambda n: f"X:{' ' * 20 * n}a{' ' * 20 * n}\r\n",
    "subprotocols": lambda n: f"Sec-WebSocket-Protocol: {'a, ' * n}a\r\n",
    "lines of subprotocols": lambda n: "Sec-WebSocket-Protocol: a, b\r\n" * n,
    "extensions": lambda n: f"Sec-WebSocket-Extensions: {'x; y=z, ' * n}x\r\n",
    "parameters": lambda n: f"Sec-WebSocket-Extensions: permessage-deflate{'; a=1' * n}\r\n",
    "connections": lambda n: f"Connection: {'a, ' * n}Upgrade\r\n",
    "upgrades": lambda n: "Upgrade: a\r\n" * n,
    "keys": lambda n: "Sec-WebSocket-Key: a\r\n" * n,
    "origins": lambda n: "Origin: http://a\r\n" * n,
    "a long origin": lambda n: f"Origin: http://{'a.' * 10 * n}\r\n",
}


def shake_hands(request: bytes, size: int) -> None:
    handshake = ServerHandshake(
        subprotocols=["b", "c"],
        extensions=[PerMessageDeflate()],
        hosts=["localhost"],
        max_header_bytes=NO_LIMIT,
    )
    try:
        for piece in pieces(request, size):
            received = handshake.receive_data(piece)
        assert received is not None
        handshake.check_host(received)
        handshake.respond(handshake.accept(received))
    except Rejection as exc:
        handshake.respond(exc.response)
        str(exc)


@pytest.mark.parametrize("size", [16, 2**20], ids=["in pieces", "at once"])
@pytest.mark.parametrize("kind", FIELDS)
def test_a_request(kind: str, size: int) -> None:
    def make(n: int) -> bytes:
        return REQUEST[:-2] + FIELDS[kind](n).encode() + b"\r\n"

    assert_linear(make, lambda request: shake_hands(request, size), 60)


@pytest.mark.parametrize("target", ["a", "/", "%61", "?", "//"])
def test_a_target(target: str) -> None:
    def make(n: int) -> bytes:
        return REQUEST.replace(b" / ", f" /{target * 10 * n} ".encode())

    assert_linear(make, lambda request: shake_hands(request, 2**20), 50)


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b"\r", b"a", b"a\n", b" "])
def test_a_head_without_an_end(line: bytes) -> None:
    def run(data: bytes) -> None:
        handshake = ServerHandshake(max_header_bytes=NO_LIMIT)
        try:
            for piece in pieces(b"G" + data, 1):
                handshake.receive_data(piece)
        except Rejection as exc:
            handshake.respond(exc.response)

    assert_linear(lambda n: line * n, run, 100)


class CountedBuffer(bytearray):
    """Counts the bytes among which something is searched."""

    searched = 0

    def find(self, what: bytes, start: int = 0) -> int:  # type: ignore[override]
        self.searched += len(self) - start
        return super().find(what, start)


def test_no_byte_of_a_head_is_searched_again_and_again() -> None:
    reader = HeadReader(NO_LIMIT, may_be_request_line)
    buffer = reader._buffer = CountedBuffer()
    for _ in range(10_000):
        reader.receive_data(b"x")
    assert 10_000 <= buffer.searched <= 200_000


# Regular expressions are not seen by what counts: so long an input would take hours.
LONG = 2**19


@pytest.mark.parametrize(
    "pattern", ["a", " ", ",", ";", "a;", "a; b", "a; b=c", 'a; b="c"', '"', "a=", " ,", "a ", "a,"]
)
def test_extensions(pattern: str) -> None:
    def parse(header: str) -> None:
        for text in (header, f"a;{header}", f"a; b={header}", f'a; b="{header}'):
            try:
                parse_extensions(text)
                choose_from([PerMessageDeflate()], text)
            except InvalidHeader as exc:
                str(exc)

    parse(pattern * (LONG // len(pattern)))
    assert_linear(lambda n: pattern * n, parse, 60)


# What a server sends


def answer(head: str, body: bytes = b"", size: int = 2**20) -> Exception | None:
    handshake = ClientHandshake(
        URI, subprotocols=["a"], extensions=[PerMessageDeflate()], max_header_bytes=NO_LIMIT
    )
    handshake.request_bytes()
    key = accept_key(handshake.request.headers["Sec-WebSocket-Key"])
    try:
        for piece in pieces(head.replace("KEY", key).encode() + body, size):
            if handshake.receive_data(piece) is not None:
                return None
        handshake.receive_eof()
    except HandshakeError as exc:
        str(exc)
        return exc


ANSWER = (
    "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n"
)


@pytest.mark.parametrize("size", [16, 2**20], ids=["in pieces", "at once"])
@pytest.mark.parametrize("kind", FIELDS)
def test_an_answer(kind: str, size: int) -> None:
    assert_linear(
        lambda n: f"{ANSWER}{FIELDS[kind](n)}\r\n",
        lambda head: answer(head, b"", size),
        60,
    )


@pytest.mark.parametrize("kind", FIELDS)
def test_a_redirect(kind: str) -> None:
    assert_linear(
        lambda n: f"HTTP/1.1 302 F\r\n{FIELDS[kind](n)}Content-Length: 0\r\n\r\n",
        lambda head: answer(head),
        60,
    )


@pytest.mark.parametrize("encoding", ["length", "chunked", "close"])
def test_a_body_in_many_pieces(encoding: str) -> None:
    """Each piece was copied with all before it: 2 GiB for 64 KiB."""

    def make(n: int) -> tuple[str, bytes]:
        piece = b"x" * 500
        if encoding == "chunked":
            return (
                "HTTP/1.1 403 F\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1F4\r\n%b\r\n" % piece * n,
            )
        field = f"Content-Length: {501 * n}\r\n" if encoding == "length" else ""
        return f"HTTP/1.1 403 F\r\n{field}\r\n", piece * n

    def run(made: tuple[str, bytes]) -> None:
        exc = answer(*made, size=500)
        assert isinstance(exc, InvalidStatus)
        assert exc.response.body.startswith(b"xx")

    assert_linear(make, run, 30)


def test_a_body_is_cut_wherever_it_is() -> None:
    head = f"HTTP/1.1 403 F\r\nContent-Length: {2 * MAX_BODY_BYTES}\r\n\r\n"
    for size in (1000, 2**20):
        exc = answer(head, b"x" * (MAX_BODY_BYTES + 10), size)
        assert isinstance(exc, InvalidStatus)
        assert exc.response.body == b"x" * MAX_BODY_BYTES


def test_interim_answers_that_trickle() -> None:
    def make(n: int) -> str:
        fields = "X: a\r\n" * n
        return "".join(f"HTTP/1.1 10{i} I\r\n{fields}\r\n" for i in (0, 3, 3)) + ANSWER + "\r\n"

    assert_linear(make, lambda head: answer(head, size=8), 20)


@pytest.mark.parametrize(
    "pattern", ["a", "/", "../", "./", "a/", "//", "%", "?", "#", ":", "@", "//a@", "[", "é", " "]
)
def test_where_a_redirect_leads(pattern: str) -> None:
    def follow(location: str) -> None:
        for prefix in ("", "/", "//", "https://", "ws://a/"):
            try:
                redirected(URI, Response(302, {"Location": prefix + location}))
            except HandshakeError as exc:
                str(exc)

    follow(pattern * (LONG // 8 // len(pattern)))
    assert_linear(lambda n: pattern * n, follow, 150)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_proxy(kind: str) -> None:
    def run(data: bytes) -> None:
        handshake = ConnectHandshake(parse_proxy("http://p"), "h", 1, max_header_bytes=NO_LIMIT)
        handshake.request_bytes()
        opened = [handshake.receive_data(piece) for piece in pieces(data, 16)]
        assert opened[-1]

    assert_linear(lambda n: f"HTTP/1.1 200 OK\r\n{FIELDS[kind](n)}\r\n".encode(), run, 50)
