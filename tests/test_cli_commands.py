"""`creche connect`, `serve` and `bench`, run by main() as the command line does."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

import creche
from creche import cli
from creche.cli.console import open_missing_streams
from creche.cli.serve import Comings
from creche.connection.websocket import Handler
from peers import creche_server, in_thread
from support import BACKENDS, BlockingClient, echo, free_port

Run = Callable[..., tuple[int, str, str]]


class Input:
    """Standard input, as a pipe."""

    def __init__(self) -> None:
        self.readable, self.writable = os.pipe()
        self.terminal = False

    def fileno(self) -> int:
        return self.readable

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        os.write(self.writable, text.encode())

    def end(self) -> None:
        os.close(self.writable)
        self.writable = -1


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Input]:
    pipe = Input()
    monkeypatch.setattr(sys, "stdin", pipe)
    yield pipe
    if pipe.writable != -1:
        pipe.end()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: its status, its output and its errors."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert isinstance(caught.value.code, int)
        return caught.value.code, *capsys.readouterr()

    return run_command


def uri(port: int, scheme: str = "ws") -> str:
    return f"{scheme}://localhost:{port}"


def echo_times(number: int) -> Handler:
    """A handler that sends so many messages back, and closes."""

    async def handler(ws: creche.WebSocket) -> None:
        for _ in range(number):
            await ws.send(await ws.receive())

    return handler


# connect, with an input that is no terminal


def test_each_line_is_sent_and_each_message_printed(run: Run, stdin: Input) -> None:
    stdin.write("one\ntwo\r\nlast")
    stdin.end()
    with in_thread(creche_server(echo_times(3))) as port:
        status, out, err = run("connect", uri(port))
    assert (status, out) == (0, "one\ntwo\nlast\n")
    assert err == f"* connected to {uri(port)}\n* closed with 1000 (normal closure)\n"


def test_a_password_is_not_shown(run: Run, stdin: Input) -> None:
    stdin.end()
    with in_thread(creche_server(echo_times(0))) as port:
        status, _, err = run("connect", uri(port).replace("//", "//user:SECRET@") + "/?SECRET")
    assert status == 0
    assert (
        err == f"* connected to ws://***@localhost:{port}/\n* closed with 1000 (normal closure)\n"
    )
    status, _, err = run("connect", "ws://localhost", "--header", "Authorization SECRET")
    assert status == 2
    assert "SECRET" not in err


EVIL = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202e"


async def send_evil(ws: creche.WebSocket) -> None:
    await ws.send(f"{EVIL}\n\t{'x' * 1000}")
    await ws.aclose(1000, f"{EVIL}\n* forged")


def test_a_terminal_is_shown_no_escape_sequence_wherever_the_input_comes_from(
    run: Run, stdin: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    stdin.end()  # a pipe
    with in_thread(creche_server(send_evil)) as port:
        _, out, err = run("connect", uri(port))
    shown = "\\x1b]0;owned\\x07\\x1b[2J\\x9b2J\\u202e"
    assert out == f"{shown}\n\t{'x' * 1000}\n"
    assert err.endswith(f"* closed with 1000 (normal closure): {shown}\\n* forged\n")


def test_a_file_gets_what_the_server_has_sent(run: Run, stdin: Input) -> None:
    stdin.end()
    with in_thread(creche_server(send_evil)) as port:
        _, out, err = run("connect", uri(port))
    assert out == f"{EVIL}\n\t{'x' * 1000}\n"
    assert all(line.isprintable() for line in err.splitlines())


def test_what_the_output_has_no_character_for_ends_nothing(
    run: Run, stdin: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.send("é€")
        await ws.send("still here")

    monkeypatch.setattr(type(sys.stdout), "encoding", "latin-1")
    stdin.end()
    with in_thread(creche_server(handler)) as port:
        status, out, _ = run("connect", uri(port))
    assert (status, out) == (0, "é\\u20ac\nstill here\n")


def test_an_input_that_cannot_be_read_has_ended(run: Run, stdin: Input) -> None:
    os.close(stdin.readable)
    stdin.readable = -1
    with in_thread(creche_server(echo)) as port:
        assert run("connect", uri(port), "--wait", "0")[:2] == (0, "")


def test_it_goes_on_until_the_server_closes(run: Run, stdin: Input) -> None:
    async def count_down(ws: creche.WebSocket) -> None:
        for number in range(3, 0, -1):
            await ws.send(f"{number}")
        await ws.aclose(1001, "lift-off")

    stdin.end()
    with in_thread(creche_server(count_down)) as port:
        status, out, err = run("connect", uri(port))
    assert (status, out) == (0, "3\n2\n1\n")
    assert err.endswith("* closed with 1001 (going away): lift-off\n")


def test_an_output_that_nobody_reads_ends_it_without_a_traceback() -> None:
    async def talk(ws: creche.WebSocket) -> None:
        while True:
            await ws.send("x" * 1000)

    with in_thread(creche_server(talk)) as port:
        process = subprocess.Popen(
            [sys.executable, "-m", "creche", "connect", uri(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "x" * 1000 + "\n"
            process.stdout.close()
            lines = process.stderr.read().splitlines()
            assert [line[:11] for line in lines] == ["* connected", "* closed wi"]
            assert process.wait(30) == 0


def redirected(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with a shell's redirection."""
    shell = ("sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "creche")
    return subprocess.run([*shell, *arguments], input="", capture_output=True, text=True)


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_missing_is_no_error(redirection: str) -> None:
    async def greet(ws: creche.WebSocket) -> None:
        await ws.send("hello")

    with in_thread(creche_server(greet)) as port:
        process = redirected(redirection, "connect", uri(port))
    assert process.returncode == 0
    assert "Traceback" not in process.stderr


def test_instead_of_a_stream_that_is_missing_there_is_an_empty_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stderr", None)
    output = sys.stdout
    open_missing_streams()
    with sys.stdin, sys.stderr:
        assert sys.stdin.read() == ""
        print("to nobody", file=sys.stderr, flush=True)
    assert sys.stdout is output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_without_room_is_told_in_a_line() -> None:
    async def talk(ws: creche.WebSocket) -> None:
        while True:
            await ws.send("x" * 1000)

    with in_thread(creche_server(talk)) as port:
        process = redirected(">/dev/full", "connect", uri(port))
    assert process.returncode == 1
    lines = process.stderr.splitlines()
    assert lines[1] == "* the output cannot be written: No space left on device"
    assert len(lines) == 3


def test_a_server_whose_log_nobody_reads_goes_on() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "creche", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stdout.readline().rpartition(":")[2].strip("/\n"))
        process.stdout.close()
        for message in ("first", "second"):
            with BlockingClient(port) as client:
                client.send(message)
                assert client.receive() == message
        process.terminate()
        assert process.stderr.read() == ""


def test_what_came_before_a_bad_end_is_printed(run: Run, stdin: Input) -> None:
    async def answer(ws: creche.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)
            if message == "enough":
                await ws.aclose(4000)

    stdin.write("one\nenough\n")
    with in_thread(creche_server(answer)) as port:
        status, out, _ = run("connect", uri(port))
    assert (status, out) == (1, "one\nenough\n")


def test_a_bad_end_is_told_by_the_status(run: Run, stdin: Input) -> None:
    async def refuse(ws: creche.WebSocket) -> None:
        await ws.aclose(4000, "not you")

    with in_thread(creche_server(refuse)) as port:
        status, _, err = run("connect", uri(port))
    assert status == 1
    assert err.endswith("* closed with 4000 (private use): not you\n")


def test_json_and_binary_messages_are_printed_as_they_are(run: Run, stdin: Input) -> None:
    async def talk(ws: creche.WebSocket) -> None:
        await ws.send('{"a": 1}')
        await ws.send(b"\x00\xff")

    with in_thread(creche_server(talk)) as port:
        assert run("connect", uri(port))[1] == '{"a": 1}\n00ff\n'


def test_what_a_client_says_of_itself(run: Run, stdin: Input) -> None:
    seen: dict[str, Any] = {}

    async def note(ws: creche.WebSocket) -> None:
        seen.update(ws.request.headers)
        seen["message"] = await ws.receive()
        await ws.send("bye")

    stdin.write("hello\n")
    options = {"subprotocols": ["chat"], "origins": ["https://example.com"]}
    with in_thread(creche_server(note, **options)) as port:
        status, out, err = run(
            *("connect", uri(port), "--header", "X-One: 1", "--header", "X-Two: 2", "--binary"),
            *("--subprotocol", "chat", "--origin", "https://example.com", "--ping", "60"),
        )
    assert (status, out) == (0, "bye\n")
    assert (seen["x-one"], seen["x-two"], seen["message"]) == ("1", "2", b"hello")
    assert "subprotocol chat" in err
    assert "* pong after " in err


def test_a_signal_closes_the_connection(run: Run, stdin: Input) -> None:
    codes = []

    async def handler(ws: creche.WebSocket) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        async for _ in ws:
            pass
        codes.append(ws.close_code)

    with in_thread(creche_server(handler)) as port:
        status, _, err = run("connect", uri(port))
        assert status == 0
        assert err.endswith("* closed with 1000 (normal closure)\n")
    assert codes == [1000]


# connect, in a terminal


@pytest.fixture
def keyboard(stdin: Input, monkeypatch: pytest.MonkeyPatch) -> Iterator[PipeInput]:
    """A terminal with a line editor."""
    stdin.terminal = True
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


@pytest.mark.parametrize("key", ["\x04", "\x03"], ids=["Ctrl-D", "Ctrl-C"])
def test_a_line_can_be_edited_and_a_key_ends_it(run: Run, keyboard: PipeInput, key: str) -> None:
    received = []

    async def handler(ws: creche.WebSocket) -> None:
        async for message in ws:
            received.append(message)
            keyboard.send_text(key)

    keyboard.send_text("helo\x1b[Dl\r")  # one to the left, and an l
    with in_thread(creche_server(handler)) as port:
        assert run("connect", uri(port))[0] == 0
    assert received == ["hello"]


def test_a_server_that_closes_ends_the_prompt(run: Run, keyboard: PipeInput) -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.aclose(1001)

    with in_thread(creche_server(handler)) as port:
        assert run("connect", uri(port))[0] == 0


def test_without_a_line_editor_a_terminal_is_read_plainly(
    run: Run, stdin: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin.terminal = True
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    monkeypatch.setattr("creche.cli.console.find_spec", lambda _: None)

    async def handler(ws: creche.WebSocket) -> None:
        await ws.send('{"name": "é", "list": [1]}')
        await ws.send("[not JSON")
        await ws.send("[" * 3000)  # deeper than json goes
        await ws.send("\x1b[2J")  # would clear the screen
        await ws.send("hello")
        await ws.send(b"\x00\xff")

    with in_thread(creche_server(handler)) as port:
        status, out, _ = run("connect", uri(port))
    assert status == 0
    assert out == (
        '< {\n  "name": "é",\n  "list": [\n    1\n  ]\n}\n'
        f"< [not JSON\n< {'[' * 3000}\n< \\x1b[2J\n< hello\n< (2 bytes) 00 ff\n"
    )


# What is wrong


def test_an_address_that_is_wrong_is_told_in_a_line(run: Run, stdin: Input) -> None:
    for address, text in (
        ("http://localhost", "must begin with ws:// or wss://"),
        ("ws://nobody.invalid", "cannot resolve nobody.invalid"),
        (uri(free_port()), "Connection refused"),
    ):
        status, out, err = run("connect", address)
        assert (status, out) == (1, "")
        assert err.startswith("creche: ")
        assert text in err
        assert err.count("\n") == 1


def test_a_refusal_is_told_with_the_servers_words(run: Run, stdin: Input) -> None:
    def refuse(request: creche.Request) -> creche.Response:
        body = "" if request.path == "/silent" else "not today\nnor tomorrow\n"
        return creche.Response(503, body=body)

    with in_thread(creche_server(echo, process_request=refuse)) as port:
        status, _, err = run("connect", uri(port))
        assert status == 1
        assert err == (
            "creche: the server answered 503 Service Unavailable, not 101 Switching Protocols: "
            "'not today nor tomorrow'\n"
        )
        assert run("connect", uri(port) + "/silent")[2].endswith("not 101 Switching Protocols\n")


def test_a_certificate_that_is_not_trusted_is_told_and_what_to_do(
    run: Run, stdin: Input, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    stdin.write("x\n")
    stdin.end()
    with in_thread(creche_server(echo_times(1)), context) as port:
        status, _, err = run("connect", uri(port, "wss"))
        assert status == 1
        assert "certificate is not trusted" in err
        assert "--insecure" in err
        assert err.count("\n") == 1
        assert run("connect", uri(port, "wss"), "--insecure")[:2] == (0, "x\n")
        assert run("connect", uri(port, "wss"), "--ca", str(ca), "--wait", "0")[0] == 0
        status, _, err = run("connect", uri(port, "wss"), "--ca", "/nowhere")
        assert status == 2
        assert "--ca /nowhere: No such file or directory\n" in err
        status, _, err = run("connect", uri(port, "wss"), "--ca", __file__)
        assert status == 2
        assert f"--ca {__file__}: " in err


def test_tls_with_a_server_that_has_none(run: Run, stdin: Input) -> None:
    with in_thread(creche_server(echo)) as port:
        status, _, err = run("connect", uri(port, "wss"))
    assert status == 1
    assert "Does the server speak TLS at all?" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--header", "nonsense"], "--header: one of them has no colon"),
        (["--header", "a b: c"], "header name 'a' is not a token"),
        (["--origin", "a\nb"], "header origin has a value"),
        (["--header", "Host: x"], "additional_headers: Host is set by the opening handshake"),
        (["--header", "Content-Length: 5"], "additional_headers: Content-Length tells of a body"),
        (["--origin", "http://a", "--header", "Origin: b"], "Origin is set by the option origin"),
        (["--wait", "nan"], "argument --wait: invalid delay value: 'nan'"),
        (["--wait", "-1"], "argument --wait: "),
        (["--ping", "1e300"], "argument --ping: must be at most 1,000,000,000"),
        (["--insecure"], "--ca and --insecure are for wss URIs"),
        (["--ping", "0"], "argument --ping: invalid seconds value: '0'"),
    ],
)
def test_a_wrong_argument_is_named(run: Run, stdin: Input, arguments: list[str], text: str) -> None:
    status, out, err = run("connect", "ws://localhost", *arguments)
    assert (status, out) == (2, "")
    assert text in err
    assert err.startswith("usage: creche connect")


# serve

NO_PORTS = ("70000", "65536", "-1", "x", "1.5", "9" * 5000)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        *(
            (["--port", port], f"argument --port: must be 0 to 65535, not '{port[:20]}'")
            for port in NO_PORTS
        ),
        (["--host", "a..b"], "--host must be the name or the IP address of a host, not 'a..b'"),
    ],
)
def test_where_no_server_can_listen_is_named(run: Run, arguments: list[str], text: str) -> None:
    status, out, err = run("serve", *arguments)
    assert (status, out) == (2, "")
    assert text in err
    assert err.startswith("usage: creche serve")


def test_an_option_that_is_unknown_is_told_by_its_command(run: Run) -> None:
    status, out, err = run("connect", "ws://localhost", "--orign", "x")
    assert (status, out) == (2, "")
    assert err.startswith("usage: creche connect")
    assert "unrecognized arguments: --orign x; is it --origin?\n" in err
    assert run("serve", "--nonsense")[2].endswith("unrecognized arguments: --nonsense\n")


def test_an_event_loop_that_is_not_installed_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("creche.cli.arguments.find_spec", lambda _: None)
    status, _, err = run("serve", "--backend", "trio")
    assert status == 2
    assert "argument --backend: trio is not installed: pip install trio" in err


def test_of_many_who_come_and_go_some_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    log = Comings()
    for _ in range(2):
        for number in range(12):
            log.note("+", f"client {number}")
        log.note("-", "client 0")
        log.sum_up()
    log.sum_up()
    assert (
        capsys.readouterr().out.splitlines()
        == [
            *[f"+ client {number}" for number in range(10)],
            "+ 2 more",
            "- 1 more",
        ]
        * 2
    )


@contextmanager
def beside(client: Callable[[int], None]) -> Iterator[str]:
    """Call `client(port)` in a thread as soon as somebody listens there; then end this process."""
    port = free_port()
    errors = []
    over = threading.Event()

    def work() -> None:
        try:
            while not over.wait(0.01):
                try:
                    socket.create_connection(("localhost", port)).close()
                except OSError:
                    continue
                client(port)
                break
        except BaseException as exc:
            errors.append(exc)
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield str(port)
    finally:
        over.set()
        thread.join()
    assert not errors, errors


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_server_sends_messages_back(run: Run, backend: str) -> None:
    def client(port: int) -> None:
        with BlockingClient(port) as ws:
            ws.send("hello")
            assert ws.receive() == "hello"

    with beside(client) as port:
        status, out, err = run("serve", "--port", port, "--backend", backend)
    assert (status, err) == (0, "")
    first, second, came, went = out.splitlines()
    assert first == f"listening at ws://localhost:{port}/"
    assert second == f"try: creche connect ws://localhost:{port}/"
    assert came.startswith("+ 127.0.0.1 port ")
    assert went == came.replace("+", "-")


def test_the_server_relays_between_clients(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.cli.serve._SUMMED_UP_EVERY", 0.001)

    def client(port: int) -> None:
        with BlockingClient(port) as one, BlockingClient(port) as two:
            two.send("hello")
            assert one.receive() == "hello"
            one.send("yourself")
            assert two.receive() == "yourself"

    with beside(client) as port:
        assert run("serve", "--port", port, "--broadcast")[0] == 0


def test_the_server_makes_a_certificate(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def client(port: int) -> None:
        text = ""
        while not text.endswith("-----END CERTIFICATE-----\n"):
            time.sleep(0.01)
            text = "".join(path.read_text() for path in tmp_path.glob("*/ca.pem"))
        context = ssl.create_default_context(cadata=text)
        with BlockingClient(port, tls=context) as ws:
            ws.send("hello")
            assert ws.receive() == "hello"

    with beside(client) as port:
        status, out, _ = run("serve", "--port", port, "--tls")
    assert status == 0
    assert f" --ca {tmp_path}" in out
    assert list(tmp_path.iterdir()) == []


def test_the_server_uses_a_certificate_that_it_is_given(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = trustme.CA()
    file = tmp_path / "localhost.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(file))

    def client(port: int) -> None:
        context = ssl.create_default_context()
        ca.configure_trust(context)
        with BlockingClient(port, tls=context) as ws:
            ws.send("hello")
            assert ws.receive() == "hello"

    with beside(client) as port:
        assert run("serve", "--port", port, "--tls", str(file))[0] == 0
    for wrong in ("/nowhere", __file__):
        status, _, err = run("serve", "--tls", wrong)
        assert status == 2
        assert f"--tls {wrong}: " in err
    monkeypatch.setitem(sys.modules, "trustme", None)
    status, _, err = run("serve", "--tls")
    assert status == 2
    assert "pip install 'creche[cli]'" in err


def test_a_port_that_is_taken_is_told_in_a_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        status, out, err = run("serve", "--host", "127.0.0.1", "--port", str(port))
    assert (status, out) == (1, "")
    assert err == f"creche: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


# bench


def test_the_bench_tells_rate_and_delays(run: Run) -> None:
    requests: list[creche.Request] = []
    with in_thread(creche_server(echo, process_request=requests.append)) as port:
        status, out, err = run(
            *("bench", uri(port), "--connections", "2", "--duration", "1.1", "--size", "50")
        )
    assert status == 0
    first, second, third = out.splitlines()
    assert first == "2 connections, messages of 50 bytes, 1.1 s"
    assert "messages/s" in second
    assert third.startswith("delay in ms: p50 ")
    assert [part.split()[0] for part in third[13:].split(", ")] == [
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
    ]
    assert err.startswith("   1 s ")
    # Otherwise a server would be measured by how well it compresses.
    assert all("Sec-WebSocket-Extensions" not in request.headers for request in requests)
    assert len(requests) == 2


def test_a_bench_of_a_server_that_does_not_answer_has_no_delays(run: Run) -> None:
    with in_thread(creche_server(creche.discard)) as port:
        status, out, _ = run("bench", uri(port), "--duration", "0.1")
    assert status == 0
    assert out.splitlines()[1].startswith("0 messages/s")
    assert len(out.splitlines()) == 2


def test_a_bench_of_what_is_no_echo_server_says_so(run: Run) -> None:
    async def shout(ws: creche.WebSocket) -> None:
        async for message in ws:
            await ws.send(b"!" + bytes(message))  # type: ignore[arg-type]

    with in_thread(creche_server(shout)) as port:
        status, _, err = run("bench", uri(port), "--backend", "trio")
    assert status == 1
    assert "creche: the server does not send back what it receives\n" in err


def test_a_bench_needs_a_connection(run: Run) -> None:
    status, _, err = run("bench", "ws://localhost", "--connections", "0")
    assert status == 2
    assert "argument --connections: invalid count value: '0'" in err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--size", "99999999999999"),
        ("--size", str(2**30 + 1)),
        ("--size", "9" * 5000),
        ("--connections", "1000000000000"),
        ("--connections", str(2**16)),
        ("--duration", "1e300"),
    ],
)
def test_a_bench_beyond_all_means_is_a_wrong_argument(run: Run, option: str, value: str) -> None:
    status, _, err = run("bench", "ws://localhost", option, value)
    assert status == 2
    assert f"argument {option}: " in err


def test_a_bench_of_nobody(run: Run) -> None:
    status, _, err = run("bench", uri(free_port()))
    assert status == 1
    assert err.count("\n") == 1
    assert "Connection refused" in err
