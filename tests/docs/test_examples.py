"""The programs in examples/ do what is said of them, and end cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from programs import BY_ITSELF, EXAMPLES, SERVERS, example, running
from support import BlockingClient, free_port

CLIENTS = {"echo_client", "hello_client", "secure_client"}

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def client(name: str, *arguments: str, backend: str) -> str:
    """What a client of the examples prints."""
    result = subprocess.run(
        [*example(name, backend), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_each_example_is_tested_here(backend: str) -> None:
    named = {path.stem for path in EXAMPLES.glob("*.py")}
    assert named == CLIENTS | set(SERVERS) | {"starlette_lifespan"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_ends_cleanly_with_one_client_open_and_one_in_the_handshake(
    name: str, number: signal.Signals, backend: str
) -> None:
    with (
        upstream_of(name, backend) as arguments,
        running(name, *arguments, backend=backend) as server,
        socket.create_connection(("localhost", server.port)) as half_open,
        server.connect() as ws,
    ):
        half_open.sendall(b"GET /ws HTTP/1.1\r\nHost: loc")
        if name == "proxy":
            ws.send("x")
            assert ws.receive() == "x"  # it is connected through
        start = time.monotonic()
        server.process.send_signal(number)
        assert ws.read_to_the_end() == 1001
        ws.sock.close()
        by_ctrl_c = number == signal.SIGINT and name != BY_ITSELF
        server.wait(130 if by_ctrl_c else 0)
        print(f"{name}: {time.monotonic() - start:.2f} s")


@contextmanager
def upstream_of(name: str, backend: str) -> Iterator[list[str]]:
    """What a proxy needs to be told."""
    if name == "proxy":
        with running("echo_server", backend=backend) as upstream:
            yield [upstream.uri]
    else:
        yield []


def test_echo(backend: str) -> None:
    with running("echo_server", backend=backend) as server:
        assert client("echo_client", server.uri, backend=backend) == "Hello world!\n"


def test_hello(backend: str) -> None:
    with running("hello_server", backend=backend) as server:
        output = client("hello_client", "Ada", server.uri, backend=backend)
        assert output == "> Ada\n< Hello Ada!\n"
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == "< Ada\n> Hello Ada!\n"


def test_none_needs_another(backend: str) -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    for path in EXAMPLES.glob("*.py"):
        imported = re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.MULTILINE)
        assert not names & set(imported), path


def test_hello_over_tls(backend: str) -> None:
    with running("secure_server", backend=backend) as server:
        output = client("secure_client", server.ca, server.uri, backend=backend)
        assert output == "> World\n< Hello World!\n"


def test_the_time_is_told_again_and_again(backend: str) -> None:
    with running("time_server", backend=backend) as server, server.connect() as ws:
        first, second = ws.receive(), ws.receive()
        assert str(first).startswith("20")
        assert first < second  # type: ignore[operator]


def test_the_counter_is_kept_in_step(backend: str) -> None:
    with running("counter", backend=backend) as server, server.connect() as one:
        assert json.loads(one.receive()) == {"value": 0}
        assert json.loads(one.receive()) == {"users": 1}
        with server.connect() as two:
            assert json.loads(two.receive()) == {"value": 0}
            assert json.loads(two.receive()) == json.loads(one.receive()) == {"users": 2}
            two.send("plus")
            assert json.loads(two.receive()) == json.loads(one.receive()) == {"value": 1}
            one.send("minus")
            assert json.loads(two.receive()) == json.loads(one.receive()) == {"value": 0}
        assert json.loads(one.receive()) == {"users": 1}
        status, page = get(server.port, "/")
        assert status == 200
        assert "<title>A counter</title>" in page
        assert get(server.port, "/favicon.ico")[0] == 404


def test_the_consumer_consumes(backend: str) -> None:
    with running("consumer", backend=backend) as server, server.connect() as ws:
        ws.send("kitchen 20")
        assert server.line() == "kitchen: 20.0 on average"
        ws.send("kitchen 23")
        assert server.line() == "kitchen: 21.5 on average"
        ws.send("kitchen cold")
        assert ws.read_to_the_end() == 1008


def test_the_producer_produces(backend: str) -> None:
    with running("producer", backend=backend) as server, server.connect() as ws:
        assert float(ws.receive()) > 0
        assert float(ws.receive()) > 0


def test_a_consumer_tells_its_producer_by_how_much_to_count(backend: str) -> None:
    with running("consumer_producer", backend=backend) as server, server.connect() as ws:
        assert [ws.receive(), ws.receive()] == ["0", "1"]
        ws.send("10")
        last = int(ws.receive())
        while int(ws.receive()) - last != 10:
            last += 1


def test_who_is_registered_hears_all(backend: str) -> None:
    with running("registration", backend=backend) as server, server.connect() as one:
        assert one.receive() == "1 connected"
        with server.connect() as two:
            assert one.receive() == two.receive() == "2 connected"
            two.send("hello")
            assert one.receive() == two.receive() == "hello"
        assert one.receive() == "1 connected"


def test_a_room_of_the_chat_hears_its_own_members_only(backend: str) -> None:
    def join(ws: BlockingClient, name: str, room: str) -> None:
        ws.send(json.dumps({"name": name, "room": room}))

    with (
        running("chat", backend=backend) as server,
        server.connect() as ada,
        server.connect() as bob,
        server.connect() as eve,
    ):
        join(ada, "Ada", "garden")
        assert json.loads(ada.receive()) == {"members": ["Ada"]}
        join(eve, "Eve", "cellar")
        assert json.loads(eve.receive()) == {"members": ["Eve"]}
        join(bob, "Bob", "garden")
        for ws in (ada, bob):
            assert json.loads(ws.receive()) == {"members": ["Ada", "Bob"]}
        bob.send("hello")
        for ws in (ada, bob):
            assert json.loads(ws.receive()) == {"name": "Bob", "text": "hello"}
        eve.send("anybody?")
        assert json.loads(eve.receive()) == {"name": "Eve", "text": "anybody?"}
        bob.sock.close()
        assert json.loads(ada.receive()) == {"members": ["Ada"]}
        assert ada.messages == []
        with server.connect() as nobody:
            nobody.send("[]")
            assert nobody.read_to_the_end() == 1008


def test_a_proxy_passes_messages_and_close_codes_on(backend: str) -> None:
    with running("consumer", backend=backend) as upstream:
        with running("proxy", upstream.uri, backend=backend) as proxy:
            with proxy.connect() as ws:
                ws.send("kitchen 20")
                assert upstream.line() == "kitchen: 20.0 on average"
                ws.send("nonsense")
                assert ws.read_to_the_end() == 1008
                assert ws.connection.received is not None
                assert ws.connection.received.reason == "say: NAME NUMBER"
            with proxy.connect() as ws:
                ws.send("cellar 3")
                assert upstream.line() == "cellar: 3.0 on average"
                upstream.process.send_signal(signal.SIGTERM)
                assert ws.read_to_the_end() == 1001
                assert upstream.wait() == ""
            with proxy.connect() as ws:
                assert ws.read_to_the_end() == 1011


@pytest.mark.parametrize("activated", [False, True])
def test_a_graceful_shutdown_finishes_what_is_under_way(
    activated: bool, backend: str, unix_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, socket.socket() as handed:
        manager.bind(str(unix_path))
        manager.settimeout(30)
        handed.bind(("127.0.0.1", 0))
        environment = {**os.environ, "NOTIFY_SOCKET": str(unix_path), "LISTEN_FDS": "1"}
        options: dict[str, Any] = {"env": environment}
        if activated:
            # The socket is handed over as descriptor 3, to the process of that id.
            script = (
                f"import os, sys; os.dup2({handed.fileno()}, 3); "
                "os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"
            )
            options.update(prefix=[sys.executable, "-c", script], pass_fds=[handed.fileno()])
        with running("graceful_shutdown", backend=backend, **options) as server:
            assert manager.recv(100) == b"READY=1"
            if activated:
                assert server.port == handed.getsockname()[1]
            assert get(server.port, "/health") == (200, "healthy\n")
            with server.connect() as ws:
                ws.send("sweep")
                ws.send("wipe")
                assert ws.receive() == "done: sweep"
                server.process.send_signal(signal.SIGTERM)
                assert ws.read_to_the_end() == 1001
            assert manager.recv(100) == b"STOPPING=1"
            assert server.wait() == "done: sweep\ndone: wipe\nstopped\n"


def test_a_lifespan_of_starlette_runs_a_client(backend: str) -> None:
    port = free_port()
    with running("producer", backend=backend) as feed:
        process = subprocess.Popen(
            [
                *(sys.executable, str(EXAMPLES / "starlette_lifespan.py"), "--port", str(port)),
                *("--backend", backend, "--uri", feed.uri),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            latest = ""
            while not re.fullmatch(r"\d+\.\d\d", latest):
                assert process.poll() is None, process.communicate()
                try:
                    latest = get(port, "/")[1]
                except urllib.error.URLError:
                    time.sleep(0.05)
            with (
                socket.create_connection(("localhost", port)) as half_open,
                socket.create_connection(("localhost", port)) as idle,
            ):
                half_open.sendall(b"GET / HTTP/1.1\r\nHost: loc")
                idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert idle.recv(100)
                start = time.monotonic()
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=30)
                print(f"starlette_lifespan: {time.monotonic() - start:.2f} s")
            assert process.returncode == 0
            assert "Traceback" not in errors
        finally:
            process.kill()
            process.communicate()
