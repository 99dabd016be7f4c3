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

# It does without creche.run.
BY_ITSELF = "graceful_shutdown"

# A program, on a backend and on a free port.
WRAPPER = """
import functools, runpy, sys
import anyio, creche

path, backend = sys.argv[1:3]
del sys.argv[0], sys.argv[1]
run = creche.run
creche.run = lambda handler, host, port, **options: run(handler, host, backend=backend, **options)
anyio.run = functools.partial(anyio.run, backend=backend)
runpy.run_path(path, run_name="__main__")
"""

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

    def wait(self, status: int = 0) -> str:
        """Wait for its end, which is a clean one; returns what it has printed since."""
        output, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == status, errors
        assert errors == ""
        return output


def example(name: str, backend: str) -> list[str]:
    """The command that runs an example."""
    path = str(EXAMPLES / f"{name}.py")
    if name == BY_ITSELF:
        return [sys.executable, path, "--port", "0", "--backend", backend]
    return [sys.executable, "-c", WRAPPER, path, backend]


@contextmanager
def running(
    name: str, *arguments: str, backend: str, prefix: Sequence[str] = (), **options: Any
) -> Iterator[Running]:
    """A server of the examples on a free port; `options` are those of Popen."""
    command = example(name, backend)
    process = subprocess.Popen(
        [*prefix, *command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        assert process.stdout is not None
        ca = process.stdout.readline().split()[-1] if name == "secure_server" else ""
        assert process.stderr is not None
        said = process.stdout if name == BY_ITSELF else process.stderr
        first = said.readline()
        while "listening at" not in first:
            assert first, process.communicate()
            first = said.readline()
        uri = first.split()[-1]
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
