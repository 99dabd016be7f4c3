"""A server as a whole program: where it listens, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import creche
from creche import app
from support import BACKENDS, echo

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"
)


class Listening(logging.Handler):
    """Notes what is logged, and calls back when a server listens."""

    def __init__(self, callback: Callable[[str], None]) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._callback = callback

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.messages.append(message)
        if message.startswith("listening at "):
            self._callback(message.removeprefix("listening at "))


@contextmanager
def client(*signals: int, ends: list[int | None] | None = None) -> Iterator[Listening]:
    """A client in another thread, for the next server that says that it listens. After an echo it
    sends this process signals, each when there is an answer to the message that went before."""

    async def talk(url: str) -> None:
        async with creche.connect(url) as ws:
            for number in signals:
                await ws.send("x")
                assert await ws.receive() == "x"
                os.kill(os.getpid(), number)
            await creche.discard(ws)
            if ends is not None:
                ends.append(ws.close_code)

    threads: list[threading.Thread] = []

    def start(url: str) -> None:
        threads.append(threading.Thread(target=lambda: anyio.run(talk, url)))
        threads[0].start()

    listening = Listening(start)
    logger = logging.getLogger("creche.server")
    logger.addHandler(listening)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield listening
    finally:
        logger.setLevel(before)
        logger.removeHandler(listening)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> dict[str, Any]:
    given = BACKENDS[request.param]
    return {"backend": given["backend"], **given.get("backend_options", {})}


def test_ctrl_c_ends_it_gracefully_with_status_130(backend: dict[str, Any]) -> None:
    ends: list[int | None] = []
    with client(signal.SIGINT, ends=ends) as listening, pytest.raises(SystemExit) as caught:
        creche.run(echo, "127.0.0.1", **backend)
    assert caught.value.code == 130
    assert ends == [1001]
    assert listening.messages[0].startswith("listening at ws://127.0.0.1:")


def test_sigterm_ends_it_gracefully(backend: dict[str, Any]) -> None:
    ends: list[int | None] = []
    with client(signal.SIGTERM, ends=ends):
        creche.run(echo, "127.0.0.1", **backend)
    assert ends == [1001]


def test_a_signal_while_it_starts_ends_it(
    backend: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(_self: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()

    monkeypatch.setattr(creche.serving, "_open", start)
    with pytest.raises(SystemExit) as caught:
        creche.run(echo, "127.0.0.1", **backend)
    assert caught.value.code == 130


def test_what_a_handler_ends_the_program_with_comes_out(backend: dict[str, Any]) -> None:
    async def handler(ws: creche.WebSocket) -> None:
        raise SystemExit(3)

    with client(), pytest.raises(SystemExit) as caught:
        creche.run(handler, "127.0.0.1", **backend)
    assert caught.value.code == 3


def test_a_second_signal_cancels_the_handlers(backend: dict[str, Any]) -> None:
    cancelled = []

    async def handler(ws: creche.WebSocket) -> None:
        await ws.send(await ws.receive())
        await creche.discard(ws)  # the first signal has come
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append(True)
            raise

    with client(signal.SIGTERM):
        creche.run(handler, "127.0.0.1", **backend)
    assert cancelled == [True]


def test_it_logs_to_standard_error_where_nobody_has_set_up_logging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("creche")
    monkeypatch.setattr(logger, "propagate", False)
    (url,) = _run_in_thread()
    shown = capsys.readouterr().err
    assert f"INFO creche.server: listening at {url}\n" in shown
    assert logger.handlers == []
    assert logger.level == logging.NOTSET


def test_it_runs_in_a_thread_where_it_hears_no_signals() -> None:
    assert len(_run_in_thread()) == 1


def _run_in_thread() -> list[str]:
    """Run a server in a thread until its handler shuts it down; where it has listened."""
    urls: list[str] = []

    async def handler(ws: creche.WebSocket) -> None:
        servers[0].begin_shutdown()

    servers: list[creche.Server] = []
    begin = creche.Server.__init__

    def note(self: creche.Server, *args: Any) -> None:
        servers.append(self)
        begin(self, *args)
        urls.append(self.url)
        asking.start()

    async def ask() -> None:
        async with creche.connect(urls[0]) as ws:
            await creche.discard(ws)

    asking = threading.Thread(target=lambda: anyio.run(ask))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(creche.Server, "__init__", note)
        thread = threading.Thread(target=lambda: creche.run(handler, "127.0.0.1"))
        thread.start()
        thread.join(20)
        asking.join(20)
    assert not thread.is_alive()
    return urls


def test_where_signals_cannot_be_received_ctrl_c_ends_it_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_signals: int) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(anyio, "open_signal_receiver", refuse)
    with client(signal.SIGINT), pytest.raises(SystemExit) as caught:
        creche.run(echo, "127.0.0.1")
    assert caught.value.code == 130


def test_what_is_wrong_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked: Any = creche.run
    with pytest.raises(ValueError, match='backend must be "asyncio" or "trio", not \'curio\''):
        unchecked(echo, backend="curio")
    with pytest.raises(ValueError, match="use_uvloop: uvloop is an event loop of asyncio's"):
        unchecked(echo, backend="trio", use_uvloop=True)
    with pytest.raises(TypeError, match="unknown option 'prot'"):
        unchecked(echo, prot=1)
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="trio is not installed: pip install trio"):
        unchecked(echo, backend="trio")
    with pytest.raises(ImportError, match="uvloop is not installed: pip install uvloop"):
        unchecked(echo, use_uvloop=True)


def test_an_address_that_is_taken_and_a_socket_that_breaks_are_os_errors(
    backend: dict[str, Any],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="cannot listen on"):
            creche.run(echo, "127.0.0.1", taken.getsockname()[1], **backend)

    async def handler(ws: creche.WebSocket) -> None:
        descriptors.append(sock.detach())
        with socket.create_connection(address):
            await creche.discard(ws)

    descriptors: list[int] = []
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    with client(), pytest.raises(OSError, match="accepting failed"):
        creche.run(handler, sockets=[sock], **backend)
    os.close(descriptors[0])
