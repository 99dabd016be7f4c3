"""A peer that reads slowly, and steadily, gets all that was sent to it before the end."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import creche
from creche.handshake.server import ServerHandshake
from creche.protocol.states import Side
from creche.testing import memory_byte_pair
from support import BACKENDS, FAKE_TIME, REQUEST, RawPeer, make_tls, until

# So much is sent, and read at such a rate: as long as ten times the close_timeout.
SIZE = 3_000_000
RATE = 3_000_000
CLOSE_TIMEOUT = 0.1

KINDS = ["tcp", "tls", "unix"]


def message() -> bytes:
    return b"0123456789" * (SIZE // 10)


def read_slowly(sock: Any, size: int) -> bytes:
    """Read so many bytes, as many a second as RATE says."""
    data = b""
    start = time.monotonic()
    while len(data) < size:
        time.sleep(max(start + len(data) / RATE - time.monotonic(), 0))
        piece = sock.recv(min(16384, size - len(data)))
        if not piece:
            break
        data += piece
    return data


def with_small_buffer(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(20)
    return sock


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_returns_has_sent_everything(
    backend_name: str, kind: str, tls: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path
) -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.send(message())

    def read(address: Any) -> bytes:
        with with_small_buffer(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as plain:
            plain.connect(address)
            sock: Any = plain
            if kind == "tls":
                sock = tls[1].wrap_socket(plain, server_hostname="localhost")
            sock.sendall(REQUEST)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1)
            read_slowly(sock, 10)  # the header of the message
            data = read_slowly(sock, SIZE)
            assert read_slowly(sock, 4) == b"\x88\x02\x03\xe8"
            sock.close()
            return data

    async def main() -> None:
        options: Any = {"close_timeout": CLOSE_TIMEOUT, "compression": None}
        if kind == "tls":
            options["ssl"] = tls[0]
        async with anyio.create_task_group() as tg:
            address: Any
            if kind == "unix":
                address = str(tmp_path / "socket")
                server = await tg.start(
                    lambda **status: creche.serve_unix(handler, address, **status, **options)
                )
            else:
                server = await tg.start(
                    lambda **status: creche.serve(handler, "127.0.0.1", **status, **options)
                )
                address = server.addresses[0]
            data = await anyio.to_thread.run_sync(read, address)
            await server.shutdown()
        assert hashlib.sha256(data).digest() == hashlib.sha256(message()).digest()

    anyio.run(main, **BACKENDS[backend_name])


CLIENT = """
import sys
import anyio, creche

async def main(uri, path, ca):
    import ssl
    options = {"close_timeout": %r, "compression": None}
    if ca:
        options["ssl"] = ssl.create_default_context(cafile=ca)
    context = creche.connect_unix(path, **options) if path else creche.connect(uri, **options)
    async with context as ws:
        await ws.send(b"0123456789" * (%d // 10))

anyio.run(main, *sys.argv[1:4], **eval(sys.argv[4]))
"""


@contextmanager
def slow_server(kind: str, tmp_path: Path) -> Iterator[socket.socket]:
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(tmp_path / "socket"))
    else:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        listener.settimeout(20)
        listener.listen()
        yield listener


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_process_that_leaves_and_ends_has_sent_everything(
    backend_name: str, kind: str, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    server_context, _ = make_tls(ca) if kind == "tls" else (None, None)
    with slow_server(kind, tmp_path) as listener:
        uri = path = ""
        if kind == "unix":
            path = listener.getsockname()
        else:
            scheme = "wss" if kind == "tls" else "ws"
            uri = f"{scheme}://localhost:{listener.getsockname()[1]}"
        arguments = [uri, path, str(ca) if kind == "tls" else ""]
        with subprocess.Popen(
            [
                sys.executable,
                "-c",
                CLIENT % (CLOSE_TIMEOUT, SIZE),
                *arguments,
                repr(BACKENDS[backend_name]),
            ]
        ) as client:
            plain, _ = listener.accept()
            plain.settimeout(20)
            sock: Any = plain
            if server_context is not None:
                sock = server_context.wrap_socket(plain, server_side=True)
            handshake = ServerHandshake()
            request = None
            while request is None:
                request = handshake.receive_data(sock.recv(65536))
            sock.sendall(handshake.respond(handshake.accept(request)))
            header = read_slowly(sock, 14)
            data = read_slowly(sock, SIZE)
            close = read_slowly(sock, 8)
            sock.sendall(b"\x88\x02\x03\xe8")
            sock.close()
            assert client.wait(20) == 0
    key = header[10:]
    assert bytes(byte ^ key[i % 4] for i, byte in enumerate(data[:1000])) == message()[:1000]
    assert len(data) == SIZE
    assert close[0] == 0x88


# A client that is cancelled


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_what_a_cancelled_client_has_committed_reaches_a_server_that_reads(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], kind: str
) -> None:
    left = anyio.Event()
    received: list[bytes] = []
    closed: list[int | None] = []

    async def handler(ws: creche.WebSocket) -> None:
        await left.wait()
        received.extend([message async for message in ws])  # type: ignore[misc]
        closed.append(ws.close_code)

    server_options: Any = {"ssl": tls[0] if kind == "tls" else None, "max_size": None}
    options: Any = {"ssl": tls[1] if kind == "tls" else None, "compression": None}
    async with creche.serving(handler, "127.0.0.1", max_queue_bytes=1, **server_options) as server:
        with anyio.CancelScope() as scope:
            async with creche.connect(server.url, **options) as ws:
                ws.send_nowait(message() * 5)
                scope.cancel()
                await anyio.sleep_forever()
        assert ws.state == "closing"
        left.set()
        with anyio.fail_after(30):
            await ws.wait_closed()
        await until(lambda: closed)
    assert received == [message() * 5]
    assert closed == [1001]


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_a_cancelled_client_lingers_no_longer_than_closing_may_take(backend: str) -> None:
    async def main() -> None:
        ours, theirs = memory_byte_pair()
        peer = RawPeer(theirs, Side.SERVER)
        async with anyio.create_task_group() as tg:
            tg.start_soon(peer.shake_hands)
            with anyio.CancelScope() as scope:
                async with creche.client_websocket(
                    ours, "ws://localhost/", close_timeout=30, ping_interval=None
                ) as ws:
                    ours.clogged_after = 0
                    ws.send_nowait("x" * 100_000)
                    start = anyio.current_time()
                    scope.cancel()
                    await anyio.sleep_forever()
            assert anyio.current_time() - start == pytest.approx(1, abs=0.01)
            assert ws.state == "closing"
            await ws.wait_closed()
            assert anyio.current_time() - start == pytest.approx(30, abs=0.01)

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


LINGERING = """
import sys
import anyio, creche

async def main(uri):
    with anyio.move_on_after(0.1):
        async with creche.connect(uri, compression=None) as ws:
            ws.send_nowait(b"x" * 20_000_000)
            await anyio.sleep_forever()
    assert ws.state == "closing"

anyio.run(main, sys.argv[1], **eval(sys.argv[2]))
"""


def test_the_end_of_the_loop_ends_a_connection_that_lingers(backend_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        port = listener.getsockname()[1]
        command = [sys.executable, "-W", "default", "-c", LINGERING, f"ws://127.0.0.1:{port}"]
        with subprocess.Popen(
            [*command, repr(BACKENDS[backend_name])], stderr=subprocess.PIPE
        ) as client:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(20)
                handshake = ServerHandshake()
                while (request := handshake.receive_data(sock.recv(4096))) is None:
                    pass
                sock.sendall(handshake.respond(handshake.accept(request)))
                assert client.stderr is not None
                assert client.stderr.read() == b""
                assert client.wait(20) == 0
                while sock.recv(2**16):  # to the end, which is no reset
                    pass
