from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trustme

from creche.transports.tls import TLS_RECORD, TLSSocket

pytestmark = pytest.mark.anyio

WAITS = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
DATA = bytes(range(256)) * 257  # five records


class Kernel:
    """A socket that counts its system calls, and whose kernel does what it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sends = 0
        self.receives = 0
        self.room: int | None = None  # bytes it takes of the next writes; None for all
        self.drip: int | None = None  # bytes it gives at once; None for all
        self.broken: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes) -> int:
        self.sends += 1
        if self.broken is not None:
            raise self.broken
        if self.room is not None:
            data = data[: self.room]
            self.room -= len(data)
            if not data:
                raise BlockingIOError
        return self._sock.send(data)

    def sendmsg(self, buffers: list[bytes]) -> int:
        return self.send(b"".join(buffers))

    def recv_into(self, buffer: Any) -> int:
        self.receives += 1
        return self._sock.recv_into(buffer, self.drip or 0)


class Ends:
    """Two ends of one connection: a server's and a client's, TLSSockets both."""

    def __init__(self, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**18)
        self.kernel, self.their_kernel = Kernel(ours), Kernel(theirs)
        self.server = TLSSocket(ours, server_tls, server_side=True)
        self.client = TLSSocket(theirs, client_tls, server_hostname="localhost")
        self.server.plain, self.client.plain = self.kernel, self.their_kernel  # type: ignore[assignment]

    def shake_hands(self) -> None:
        shake_hands(self.client, self.server)


def shake_hands(*ends: Any) -> None:
    left = list(ends)
    while left:
        for end in list(left):
            with suppress(*WAITS):
                end.do_handshake()
                left.remove(end)


def read(end: TLSSocket, size: int) -> bytes:
    """Read so many bytes that are on their way, or fewer if there are no more."""
    data = b""
    while len(data) < size:
        with suppress(*WAITS):
            piece = end.recv(2**16)
            if not piece:
                break
            data += piece
    return data


@pytest.fixture
async def ends(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> Any:
    ends = Ends(server_tls, client_tls)
    yield ends
    ends.server.close()
    ends.client.close()


async def test_five_records_leave_with_one_system_call_and_come_with_one(ends: Ends) -> None:
    ends.shake_hands()
    ends.kernel.sends = ends.their_kernel.receives = 0
    assert ends.server.send(DATA) == len(DATA)
    assert ends.kernel.sends == 1
    assert read_once(ends.client) == DATA
    assert ends.their_kernel.receives == 1
    assert not ends.client.pending()


async def test_where_nothing_gathers_records_are_joined(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("creche.transports.tls._CAN_GATHER", False)
    monkeypatch.setattr(Kernel, "sendmsg", None)
    ends.shake_hands()
    assert ends.server.send(DATA) == len(DATA)
    assert read(ends.client, len(DATA)) == DATA


async def test_what_the_kernel_refuses_is_sent_when_the_same_bytes_come_again(ends: Ends) -> None:
    ends.shake_hands()
    ends.kernel.room = 1000
    for _ in range(3):
        with pytest.raises(ssl.SSLWantWriteError):
            ends.server.send(DATA[: TLS_RECORD + 1])
    ends.kernel.room = None
    # More stands behind them meanwhile; it is not what was encrypted.
    assert ends.server.send(DATA) == TLS_RECORD + 1
    assert ends.server.send(DATA[TLS_RECORD + 1 :]) == len(DATA) - TLS_RECORD - 1
    assert read(ends.client, len(DATA)) == DATA


async def test_a_record_may_come_byte_by_byte(ends: Ends) -> None:
    ends.kernel.drip = 1
    ends.shake_hands()
    ends.client.send(b"abc")
    assert read(ends.server, 3) == b"abc"
    ends.client.send(DATA[:TLS_RECORD])
    ends.kernel.drip = 1000
    assert read(ends.server, TLS_RECORD) == DATA[:TLS_RECORD]


async def test_what_is_left_is_kept_while_others_use_the_buffer(
    ends: Ends, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    ends.shake_hands()
    ends.client.send(DATA)
    first = ends.server.recv(10)
    assert ends.server.pending()
    others = Ends(server_tls, client_tls)
    others.shake_hands()
    others.client.send(b"x" * TLS_RECORD)
    assert read(others.server, TLS_RECORD) == b"x" * TLS_RECORD
    assert first + read(ends.server, len(DATA) - 10) == DATA
    assert not ends.server.pending()
    others.server.close()
    others.client.close()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\xff\xff", b"\x16GET /"])
async def test_what_is_no_tls_is_refused_at_once(ends: Ends, garbage: bytes) -> None:
    ends.their_kernel.send(garbage)
    with pytest.raises(ssl.SSLError) as caught:
        while True:
            ends.server.do_handshake()
    assert not isinstance(caught.value, ssl.SSLWantReadError)


async def test_a_short_beginning_of_what_is_no_tls_is_not_waited_for(ends: Ends) -> None:
    ends.their_kernel.send(b"GET")
    with pytest.raises(BlockingIOError):
        ends.server.do_handshake()
    ends.their_kernel.send(b" /")
    with pytest.raises(ssl.SSLError):
        ends.server.do_handshake()


@pytest.mark.parametrize("rest", [0, 3, 100])
async def test_an_end_without_a_close_notify_is_an_end(ends: Ends, rest: int) -> None:
    ends.shake_hands()
    read_tickets(ends.client)
    ends.client.send(b"whole")
    ends.their_kernel.room = rest
    with pytest.raises(ssl.SSLWantWriteError):
        ends.client.send(DATA)
    ends.client.close()
    assert read(ends.server, 100) == b"whole"
    assert ends.server.recv(100) == b""


def read_tickets(client: TLSSocket) -> None:
    """Take what a server says after the handshake."""
    with pytest.raises(BlockingIOError):
        client.recv(1)


async def test_a_close_notify_is_an_end_and_the_other_direction_goes_on(ends: Ends) -> None:
    ends.shake_hands()
    ends.client.send(b"last")
    ends.client.unwrap()
    assert read(ends.server, 4) == b"last"
    assert ends.server.recv(100) == b""
    ends.server.send(b"answer")
    ends.server.unwrap()
    ends.server.plain.shutdown(socket.SHUT_WR)
    assert ends.their_kernel._sock.recv(2**16)


async def test_a_record_that_was_changed_is_an_error_and_the_peer_is_told(ends: Ends) -> None:
    ends.shake_hands()
    read_tickets(ends.client)
    ends.their_kernel.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        ends.server.recv(100)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        ends.client.recv(100)


async def test_what_came_before_a_broken_record_is_read_before_the_error(ends: Ends) -> None:
    ends.shake_hands()
    ends.client.send(b"whole")
    ends.their_kernel.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert read_once(ends.server) == b"whole"
    assert ends.server.pending()
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        read_once(ends.server)


async def test_what_came_before_a_close_notify_is_read_before_the_end(ends: Ends) -> None:
    ends.shake_hands()
    ends.client.send(b"first")
    ends.client.send(b"last")
    ends.client.unwrap()
    assert read_once(ends.server) == b"firstlast"
    assert ends.server.pending()
    assert read_once(ends.server) == b""


def read_once(end: TLSSocket) -> bytes:
    """What one call gives that has room for much."""
    buffer = bytearray(2**17)
    size = end.recv_into(buffer, len(buffer))
    end.keep()
    return bytes(buffer[:size])


async def test_the_peer_is_not_told_where_it_cannot_be(ends: Ends) -> None:
    ends.shake_hands()
    ends.their_kernel.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    ends.kernel.broken = BrokenPipeError()
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        ends.server.recv(100)


async def test_a_handshake_waits_for_a_kernel_without_room(ends: Ends) -> None:
    with pytest.raises(BlockingIOError):
        ends.client.do_handshake()
    ends.kernel.room = 100
    with pytest.raises(ssl.SSLWantWriteError):
        ends.server.do_handshake()
    ends.kernel.room = None
    ends.shake_hands()
    ends.client.send(b"x")
    assert read(ends.server, 1) == b"x"


async def test_a_handshake_that_cannot_write_reads_what_the_peer_has_said(ends: Ends) -> None:
    ends.their_kernel.broken = BrokenPipeError()
    ends.kernel.send(b"\x15\x03\x03\x00\x02\x02\x28")  # handshake_failure
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        ends.client.do_handshake()


async def test_a_write_that_failed_is_not_repeated(ends: Ends) -> None:
    ends.shake_hands()
    ends.kernel.broken = BrokenPipeError()
    with pytest.raises(BrokenPipeError):
        ends.server.send(b"lost")
    ends.kernel.broken = None
    assert ends.server.send(b"ab") == 2


class Scripted:
    """An SSL object whose writes follow a script: an exception to raise, or None to go on."""

    def __init__(self, ssl_object: Any, script: list[Exception | None]) -> None:
        self._ssl_object = ssl_object
        self._script = script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ssl_object, name)

    def write(self, data: Any) -> Any:
        step = self._script.pop(0)
        if step is not None:
            raise step
        return self._ssl_object.write(data)


async def test_what_was_encrypted_before_tls_wants_to_read_is_sent(ends: Ends) -> None:
    ends.shake_hands()
    script: list[Exception | None] = [ssl.SSLWantReadError(), None, ssl.SSLWantReadError()]
    ends.server.ssl_object = Scripted(ends.server.ssl_object, script)  # type: ignore[assignment]
    with pytest.raises(ssl.SSLWantReadError):
        ends.server.send(DATA)
    assert ends.server.send(DATA) == TLS_RECORD
    assert read(ends.client, TLS_RECORD) == DATA[:TLS_RECORD]


@pytest.fixture
def asking() -> Iterator[Any]:
    """A server that asks for the client's certificate later on, as an SSLSocket, and the client's
    two sockets."""
    ca = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(server_context)
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    server_context.post_handshake_auth = True
    client_context = ssl.create_default_context()
    ca.configure_trust(client_context)
    ca.issue_cert("client").configure_cert(client_context)
    client_context.post_handshake_auth = True
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    server = server_context.wrap_socket(theirs, server_side=True, do_handshake_on_connect=False)
    yield server, ours, client_context
    server.close()
    ours.close()


async def test_what_tls_itself_has_to_say_is_sent_while_reading(asking: Any) -> None:
    server, ours, context = asking
    client = TLSSocket(ours, context, server_hostname="localhost")
    kernel = Kernel(ours)
    client.plain = kernel  # type: ignore[assignment]
    shake_hands(client, server)
    server.verify_client_post_handshake()
    server.send(b"hello")  # sends the question, too
    kernel.room = 0
    for _ in range(2):  # also when it is called again
        with pytest.raises(ssl.SSLWantWriteError):
            client.recv(100)
    kernel.room = None
    assert read(client, 5) == b"hello"
    client.send(b"here")
    while True:
        with suppress(ssl.SSLWantReadError):
            assert server.recv(100) == b"here"
            break
    assert server.getpeercert()


async def test_what_tls_itself_has_to_say_does_not_hold_up_what_came_before(asking: Any) -> None:
    server, ours, context = asking
    client = TLSSocket(ours, context, server_hostname="localhost")
    shake_hands(client, server)
    server.send(b"hello")
    server.verify_client_post_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.recv(100)  # asks
    assert read_once(client) == b"hello"
    with pytest.raises(ssl.SSLWantReadError):
        server.recv(100)  # reads the answer
    assert server.getpeercert()
