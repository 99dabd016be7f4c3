"""Programs of the documentation and of examples/, started in processes of their own."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import BlockingClient

EXAMPLES = Path(__file__).parent.parent / "examples"

# Each server, and the path of its WebSocket.
SERVERS = {
    "chat": "/ws",
    "consumer": "/",
    "consumer_producer": "/",
    "counter": "/ws",
    "echo_server": "/",
    "graceful_shutdown": "/",
    "hello_server": "/",
    "producer": "/",
    "proxy": "/",
    "registration": "/",
    "secure_server": "/",
    "time_server": "/ws",
}


@dataclass
class Running:
    """A server of the examples.

    Attributes:
        process: its process.
        port: where it listens.
        path: of its WebSocket.
        ca: the file of the authority to trust, if it has TLS.
        uri: what a client is told.
    """

    process: subprocess.Popen[str]
    port: int
    path: str
    ca: str
    uri: str

    def connect(self) -> BlockingClient:
        tls = ssl.create_default_context(cafile=self.ca) if self.ca else None
        return BlockingClient(self.port, self.path, tls)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def wait(self) -> str:
        """Wait for its end, which is a clean one; returns what it has printed since."""
        output, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, errors
        assert errors == ""
        return output


@contextmanager
def running(
    name: str, *arguments: str, backend: str, prefix: Sequence[str] = (), **options: Any
) -> Iterator[Running]:
    """A server of the examples on a free port; `options` are those of Popen."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--port", "0", "--backend", backend]
    process = subprocess.Popen(
        [*prefix, *command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.communicate()
        uri = first.split()[-1]
        ca = process.stdout.readline().split()[-1] if name == "secure_server" else ""
        port = re.findall(r":(\d+)/", uri)[0]
        yield Running(process, int(port), SERVERS[name], ca, uri)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def listening(
    *arguments: str, port: int, program: str = sys.executable
) -> Iterator[subprocess.Popen[str]]:
    """A program, of Python by default, that listens on a port."""
    process = subprocess.Popen(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while True:
            try:
                socket.create_connection(("localhost", port)).close()
            except OSError:
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
            else:
                break
        yield process
    finally:
        process.kill()
        process.communicate()
