"""Shutdown of a process with 1,000 connections: 500 idle, 400 in use, 100 with stopped clients."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import BlockingClient, raise_descriptor_limit

TESTS = Path(__file__).parent.parent
IDLE, SENDING, STOPPED = 500, 400, 100
GRACE = 8.0


class Client(BlockingClient):
    """A client that says its name."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(port)
        self.name = name
        self.send(name)


def stand_still(port: int) -> None:
    """The process of the clients that are stopped."""
    clients = [
        Client(port, f"{'sending' if number % 2 else 'idle'} stopped {number}")
        for number in range(STOPPED)
    ]
    for client in clients:
        client.read()
    print("ready", flush=True)
    signal.pause()


@pytest.mark.timeout(300)  # on a busy machine
def test_a_shutdown_of_1000_connections_ends_in_time_and_loses_nothing(backend_name: str) -> None:
    raise_descriptor_limit()
    server = subprocess.Popen(
        [
            *(sys.executable, "-W", "always::ResourceWarning"),
            *(str(TESTS / "shutdown_server.py"), backend_name, str(GRACE)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stderr is not None
    stopped: subprocess.Popen[str] | None = None
    clients: list[Client] = []
    try:
        port = int(server.stdout.readline())
        stopped = subprocess.Popen(
            [sys.executable, __file__, str(port)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        )
        assert stopped.stdout is not None
        names = [f"idle {n}" for n in range(IDLE)] + [f"sending {n}" for n in range(SENDING)]
        clients = [Client(port, name) for name in names]
        assert stopped.stdout.readline() == "ready\n"
        stopped.send_signal(signal.SIGSTOP)

        selector = selectors.DefaultSelector()
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
        end = time.monotonic() + 0.5  # of traffic
        while time.monotonic() < end or not all(client.messages for client in clients):
            for key, _ in selector.select(0.05):
                key.data.read()
        server.stdin.close()
        while selector.get_map():
            for key, _ in selector.select():
                if not key.data.read():
                    selector.unregister(key.fileobj)
        selector.close()

        counts = json.loads(server.stdout.readline())
        print({key: value for key, value in counts.items() if key != "committed"})
        assert counts["connections"] == IDLE + SENDING + STOPPED
        # Both bounds bear a machine that does other things for seconds: frames that waited for the
        # grace would be beyond the first, clients that it did not end beyond the second.
        assert counts["close frames"] < GRACE / 2
        assert counts["seconds"] < 2 * GRACE
        for client in clients:
            received = client.connection.received
            assert received is not None
            assert received.code == 1001
            numbers = [str(message).partition(" ")[0] for message in client.messages[1:]]
            assert numbers == [str(number) for number in range(counts["committed"][client.name])]
        assert server.wait(10) == 0
        assert server.stderr.read() == ""  # no error, no ResourceWarning
    finally:
        for process in filter(None, (server, stopped)):
            process.kill()
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                pipe.close()
        for client in clients:
            client.sock.close()


if __name__ == "__main__":
    stand_still(int(sys.argv[1]))
