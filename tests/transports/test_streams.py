from __future__ import annotations

import socket
import sys
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from creche.engine.current import current_engine
from creche.testing import memory_byte_pair
from creche.transports.base import Receiver
from creche.transports.sockets import SocketTransport
from creche.transports.streams import StreamTransport, TransportStream, as_os_error
from support import settle, until

pytestmark = pytest.mark.anyio


class Recorder(Receiver):
    def __init__(self) -> None:
        self.data = bytearray()
        self.told: list[Any] = []

    def data_received(self, data: bytearray, size: int) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.told.append("eof")

    def output_left(self) -> None:
        self.told.append("left")

    def read_failed(self, exc: Exception) -> None:
        self.told.append(exc)

    def write_failed(self, exc: Exception) -> None:
        self.told.append(exc)


async def test_bytes_go_both_ways_before_and_after_the_start() -> None:
    ours, theirs = memory_byte_pair()
    transport, recorder = StreamTransport(ours), Recorder()
    receiver: Receiver = recorder
    await theirs.send(b"a")
    assert await transport.receive() == b"a"
    transport.outbox += b"x" * 100_000
    await transport.drain()
    assert transport.bytes_sent == 100_000
    engine = current_engine()
    transport.start(engine, receiver)
    transport.flush()
    transport.outbox += b"y" * 100_000
    transport.flush()
    assert len(transport.outbox) == 100_000
    received = b""
    while len(received) < 200_000:
        received += await theirs.receive()
    assert received == b"x" * 100_000 + b"y" * 100_000
    await theirs.send(b"b")
    await until(lambda: recorder.data == b"b")
    transport.send_eof()
    with pytest.raises(anyio.EndOfStream):
        await theirs.receive()
    await theirs.aclose()
    await until(lambda: "eof" in recorder.told)
    assert transport.unsent() == 0
    transport.close()
    transport.close()
    await settle()
    with pytest.raises(anyio.ClosedResourceError):
        await ours.receive()


async def test_nothing_is_read_while_paused() -> None:
    ours, theirs = memory_byte_pair(clogged_after=4)
    transport, recorder = StreamTransport(ours), Recorder()
    engine = current_engine()
    transport.start(engine, recorder)
    await settle()
    transport.pause_reading()
    await theirs.send(b"1234")
    await settle()
    await theirs.send(b"5678")  # one receive was under way
    await settle()
    assert recorder.data == b"1234"
    transport.resume_reading()
    await until(lambda: recorder.data == b"12345678")
    transport.close()


async def test_a_close_while_paused_or_clogged_ends_its_tasks() -> None:
    ours, _ = memory_byte_pair(clogged_after=0)
    transport, recorder = StreamTransport(ours), Recorder()
    engine = current_engine()
    transport.start(engine, recorder)
    transport.pause_reading()
    transport.outbox += b"stuck"
    transport.flush()
    await settle()
    transport.close()
    assert recorder.told == []


class BrokenStream(ByteStream):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise self.error

    async def send(self, item: bytes) -> None:
        raise self.error

    async def send_eof(self) -> None:
        raise self.error

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


class OneWayStream(BrokenStream):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.sleep_forever()
        return b""


async def test_a_broken_stream_is_told_as_an_os_error() -> None:
    error = anyio.BrokenResourceError()
    transport = StreamTransport(BrokenStream(error))
    with pytest.raises(ConnectionError, match="BrokenResourceError"):
        await transport.receive()
    transport.outbox += b"x"
    with pytest.raises(ConnectionError):
        await transport.drain()
    recorder = Recorder()
    engine = current_engine()
    transport.start(engine, recorder)
    await until(lambda: len(recorder.told) == 2)
    assert [type(exc) for exc in recorder.told] == [ConnectionError] * 2
    assert [str(exc) for exc in recorder.told] == ["BrokenResourceError"] * 2
    transport.close()
    assert as_os_error(ConnectionResetError("as it is")).args == ("as it is",)


async def test_after_a_failed_write_the_outbox_is_dropped() -> None:
    transport, recorder = StreamTransport(OneWayStream(OSError("broken"))), Recorder()
    engine = current_engine()
    transport.start(engine, recorder)
    transport.outbox += b"x"
    transport.flush()
    await until(lambda: recorder.told)
    transport.outbox += b"y"
    transport.flush()
    assert not transport.outbox
    transport.close()


async def test_an_end_that_cannot_be_sent_is_no_error() -> None:
    transport, recorder = StreamTransport(OneWayStream(OSError("broken"))), Recorder()
    engine = current_engine()
    transport.start(engine, recorder)
    transport.send_eof()
    await settle()
    transport.close()
    assert recorder.told == []


class WholeStream(OneWayStream):
    """A stream that cannot be half closed, such as one of TLS."""

    def __init__(self, end: str) -> None:
        super().__init__(NotImplementedError())
        self.end = end
        self.ended = False

    async def aclose(self) -> None:
        try:
            if self.end == "fails":
                raise OSError("broken")
            if self.end == "waits":
                await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()
        finally:
            self.ended = True


@pytest.mark.parametrize("end", ["closes", "fails", "waits"])
async def test_a_stream_that_cannot_be_half_closed_is_closed(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("creche.transports.streams._CLOSE_SECONDS", 0.01)
    stream = WholeStream(end)
    transport, recorder = StreamTransport(stream), Recorder()
    engine = current_engine()
    transport.start(engine, recorder)
    transport.send_eof()
    await until(lambda: stream.ended)
    stream.end = "closes"
    transport.close()
    assert recorder.told == []


class ClosingRecorder(Recorder):
    """Closes its transport as soon as anything is reported."""

    def __init__(self, transport: StreamTransport) -> None:
        super().__init__()
        self.transport = transport

    def data_received(self, data: bytearray, size: int) -> None:
        super().data_received(data, size)
        self.transport.close()

    def output_left(self) -> None:
        super().output_left()
        self.transport.close()


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_a_receiver_may_close_the_transport(direction: str) -> None:
    ours, theirs = memory_byte_pair()
    transport = StreamTransport(ours)
    recorder = ClosingRecorder(transport)
    engine = current_engine()
    transport.start(engine, recorder)
    if direction == "read":
        await theirs.send(b"x")
    else:
        transport.outbox += b"x"
        transport.flush()
    await until(lambda: recorder.data or recorder.told)
    await settle()


async def test_what_is_not_a_stream_is_refused() -> None:
    stream: Any = object()
    with pytest.raises(TypeError, match="stream must be a byte stream, not object"):
        StreamTransport(stream)


async def test_the_streams_attributes_are_known() -> None:
    async def handle(stream: Any) -> None:
        await stream.aclose()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            transport = StreamTransport(stream)
            assert transport.extra_attributes[SocketAttribute.remote_port]() == port


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_stream_of_trio_is_taken_as_it_is(anyio_backend: str) -> None:
    import trio.testing

    if sys.platform == "win32":
        pytest.skip("no stapled sockets")
    ours, theirs = trio.testing.memory_stream_pair()
    transport, recorder = StreamTransport(ours), Recorder()
    assert transport.extra_attributes == {}
    await theirs.send_all(b"a")
    assert await transport.receive() == b"a"
    engine = current_engine()
    transport.start(engine, recorder)
    transport.outbox += b"out"
    transport.flush()
    assert await theirs.receive_some(10) == b"out"
    transport.send_eof()
    assert await theirs.receive_some(10) == b""
    await theirs.aclose()
    await until(lambda: "eof" in recorder.told)
    transport.close()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_stream_of_trio_that_cannot_send_its_end_is_taken_too(anyio_backend: str) -> None:
    class Stream:
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await anyio.sleep_forever()
            return b""

        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

        async def aclose(self) -> None: ...

    transport, recorder = StreamTransport(Stream()), Recorder()
    engine = current_engine()
    transport.start(engine, recorder)
    transport.send_eof()
    await settle()
    transport.close()


async def test_a_pause_within_a_pause_is_ended_by_one_resumption() -> None:
    ours, theirs = memory_byte_pair()
    transport, recorder = StreamTransport(ours), Recorder()
    engine = current_engine()
    transport.start(engine, recorder)
    await settle()
    transport.pause_reading()
    await theirs.send(b"1")  # one receive was under way
    await settle()
    transport.pause_reading()
    await theirs.send(b"2")
    await settle()
    assert recorder.data == b"1"
    transport.resume_reading()
    await until(lambda: recorder.data == b"12")
    transport.close()


async def test_a_transport_before_its_start_as_a_stream() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with theirs:
        async with TransportStream(SocketTransport(ours)) as stream:
            assert stream.extra(SocketAttribute.raw_socket) is ours
            await stream.send(b"abc")
            assert theirs.recv(10) == b"abc"
            theirs.sendall(b"defg")
            assert await stream.receive(3) == b"def"
            assert await stream.receive() == b"g"
            await stream.send_eof()
            assert theirs.recv(10) == b""
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        assert ours.fileno() == -1
