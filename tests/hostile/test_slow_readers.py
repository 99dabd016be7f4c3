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
from support import BACKENDS, REQUEST, make_tls

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
