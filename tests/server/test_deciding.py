"""Handlers that are called with the request, and hooks that decide about it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import creche
from support import FAKE_TIME, echo, until

pytestmark = pytest.mark.anyio


async def refusal(uri: str, **options: Any) -> creche.Response:
    with pytest.raises(creche.InvalidStatus) as caught:
        async with creche.connect(uri, **options):
            pass
    return caught.value.response


@pytest.mark.feature("deciding")
async def test_a_handler_may_accept() -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        assert request.subprotocols == ["a", "b"]
        assert request.client_address == "127.0.0.1"
        ws = await request.accept(subprotocol="b", headers={"X-Room": request.path})
        assert ws.request is request
        assert ws in server.connections
        await echo(ws)

    async with creche.serving(handler, "127.0.0.1", subprotocols=["a"]) as server:
        async with creche.connect(f"{server.url}room", subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"
            assert ws.response.headers["X-Room"] == "/room"
            await ws.send("x")
            assert await ws.receive() == "x"
        await until(lambda: not server.stats.open)
        assert server.stats.closed_by_code == {1000: 1}


async def test_by_default_the_options_choose_the_subprotocol() -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        await request.accept()

    async with creche.serving(handler, "127.0.0.1", subprotocols=["b"]) as server:
        async with creche.connect(server.url, subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"
            await creche.discard(ws)
            assert ws.close_code == 1000  # the handler has ended


@pytest.mark.feature("deciding")
async def test_a_handler_may_reject() -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        await request.reject(404, {"X-Why": "gone"}, "no such room\n")

    async with creche.serving(handler, "127.0.0.1") as server:
        response = await refusal(server.url)
        assert (response.status, response.body) == (404, b"no such room\n")
        assert response.headers["X-Why"] == "gone"
        await until(lambda: server.stats.refused_by_status == {404: 1})
        assert server.stats.refused == 1


async def test_a_request_is_decided_once() -> None:
    errors = []

    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        with pytest.raises(ValueError, match="101 is what accept"):
            await request.reject(101)
        await request.accept()
        for again in (request.accept, lambda: request.reject(403)):
            with pytest.raises(RuntimeError, match="accepted or rejected before") as caught:
                await again()
            errors.append(caught.value)

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            await creche.discard(ws)
            assert ws.close_code == 1000
    assert len(errors) == 2


@pytest.mark.parametrize("error", [None, RuntimeError("x")])
async def test_a_request_that_is_not_decided_is_a_500(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        if error is not None:
            raise error

    async with creche.serving(handler, "127.0.0.1") as server:
        response = await refusal(server.url)
        assert response.status == 500
        await until(lambda: server.stats.refused)
        assert server.stats.failed == (error is not None)
    assert "handler did not decide about a request" in caplog.text


async def test_a_handler_that_raises_after_a_rejection_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        await request.reject(403)
        raise RuntimeError("x")

    async with creche.serving(handler, "127.0.0.1") as server:
        assert (await refusal(server.url)).status == 403
        await until(lambda: server.stats.failed)
    assert "RuntimeError: x" in caplog.text


async def test_a_handler_that_raises_after_accepting_closes_with_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        await request.accept()
        raise RuntimeError("x")

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            with pytest.raises(creche.ConnectionClosedError):
                await ws.receive()
            assert ws.close_code == 1011
        await until(lambda: not server.stats.open)
        assert server.stats.failed == 1
    assert "handler raised; the connection is closed with 1011" in caplog.text


async def test_who_does_not_ask_for_a_websocket_is_told_by_accept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)

    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        await request.accept()

    async with creche.serving(handler, "127.0.0.1") as server:
        with socket.create_connection(server.addresses[0]) as sock:
            sock.settimeout(10)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await anyio.to_thread.run_sync(sock.recv, 1000)
            assert answer.startswith(b"HTTP/1.1 426 ")
        await until(lambda: server.stats.refused_by_status == {426: 1})
    assert caplog.records == []


async def test_a_subprotocol_that_was_not_offered_is_a_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        await request.accept(subprotocol="c")

    async with creche.serving(handler, "127.0.0.1") as server:
        assert (await refusal(server.url, subprotocols=["a"])).status == 500
    assert "the subprotocol that was chosen was not offered" in caplog.text


async def test_headers_that_cannot_be_sent_leave_it_undecided() -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        with pytest.raises(ValueError, match="header X-A"):
            await request.accept(headers={"X-A": "a\nb"})
        ws = await request.accept(headers=zip(["X-A"], ["b"], strict=True))
        assert ws.response.headers["X-A"] == "b"

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            assert ws.response.headers["X-A"] == "b"


async def test_process_request_comes_first() -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        assert request.state == {"seen": True}
        await request.accept()

    def process_request(request: creche.Request) -> creche.Response | None:
        request.state["seen"] = True
        return creche.Response(401) if request.path == "/private" else None

    async with creche.serving(handler, "127.0.0.1", process_request=process_request) as server:
        assert (await refusal(f"{server.url}private")).status == 401
        async with creche.connect(server.url):
            pass


async def test_deciding_takes_no_longer_than_open_timeout() -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        await anyio.sleep_forever()

    async with creche.serving(handler, "127.0.0.1", open_timeout=0.05) as server:
        with pytest.raises((creche.HandshakeError, OSError)):
            async with creche.connect(server.url, open_timeout=10):
                pass
        await until(lambda: server.stats.refused == 1)


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_once_accepted_there_is_time(backend: str) -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        ws = await request.accept()
        await anyio.sleep(1000)
        await ws.send("late")

    async def main() -> None:
        async with creche.serving(handler, "127.0.0.1", open_timeout=10) as server:
            async with creche.connect(server.url) as ws:
                assert await ws.receive() == "late"

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


async def test_a_shutdown_ends_those_that_decide_and_those_that_have() -> None:
    waiting = anyio.Event()

    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        if request.path == "/slow":
            waiting.set()
            await anyio.sleep_forever()
        await creche.discard(await request.accept())

    async with creche.serving(handler, "127.0.0.1") as server, anyio.create_task_group() as tg:

        async def be_slow() -> None:
            with pytest.raises((creche.HandshakeError, OSError)):
                async with creche.connect(f"{server.url}slow"):
                    pass

        tg.start_soon(be_slow)
        async with creche.connect(server.url) as ws:
            await waiting.wait()
            await server.shutdown()
            await creche.discard(ws)
            assert ws.close_code == 1001


async def test_a_client_that_does_not_speak_is_refused_as_ever() -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        raise AssertionError

    async with creche.serving(handler, "127.0.0.1") as server:
        with socket.create_connection(server.addresses[0]):
            pass
        await until(lambda: server.stats.refused)


def test_deciding_needs_a_function() -> None:
    with pytest.raises(TypeError, match="handler must be callable, not str"):
        creche.deciding("x")  # type: ignore[arg-type]


# Hooks


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.feature("select_subprotocol")
async def test_select_subprotocol_decides_instead(is_async: bool) -> None:
    seen = []

    def select(request: creche.Request, offered: Sequence[str]) -> str | None:
        seen.append((request.path, list(offered)))
        return "b" if "b" in offered else None

    async def select_later(request: creche.Request, offered: Sequence[str]) -> str | None:
        return select(request, offered)

    hook: Any = select_later if is_async else select
    async with creche.serving(
        echo, "127.0.0.1", subprotocols=["a"], select_subprotocol=hook
    ) as server:
        async with creche.connect(server.url, subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"
        async with creche.connect(server.url, subprotocols=["a"]) as ws:
            assert ws.subprotocol is None
    assert seen == [("/", ["a", "b"]), ("/", ["a"])]


@pytest.mark.parametrize("answer", ["c", 1])
async def test_a_subprotocol_that_cannot_be_is_a_500(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with creche.serving(
        echo, "127.0.0.1", select_subprotocol=lambda request, offered: answer
    ) as server:
        assert (await refusal(server.url, subprotocols=["a"])).status == 500
    assert "was not offered" in caplog.text or "must return a str or None, not int" in caplog.text


async def test_what_process_response_takes_away_does_not_hold() -> None:
    def process_response(request: creche.Request, response: creche.Response) -> creche.Response:
        taken = ("sec-websocket-extensions", "sec-websocket-protocol")
        fields = [(n, v) for n, v in response.headers.fields if n.lower() not in taken]
        return creche.Response(101, fields)

    async def handler(ws: creche.WebSocket) -> None:
        assert ws.subprotocol is None
        await ws.send("x" * 10_000)

    async with creche.serving(
        handler, "127.0.0.1", subprotocols=["a"], process_response=process_response
    ) as server:
        async with creche.connect(server.url, subprotocols=["a"]) as ws:
            assert await ws.receive() == "x" * 10_000
            assert ws.subprotocol is None
        assert server.stats.bytes_sent > 10_000


@pytest.mark.parametrize("name", ["Content-Length", "Upgrade", "Sec-WebSocket-Accept"])
async def test_headers_of_the_opening_handshake_itself_leave_it_undecided(name: str) -> None:
    @creche.deciding
    async def handler(request: creche.PendingRequest) -> None:
        with pytest.raises(ValueError, match=f"headers: {name} "):
            await request.accept(headers={name: "0"})
        await echo(await request.accept())

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Content-Length", "Content-Length tells of a body"),
        ("Transfer-Encoding", "Transfer-Encoding tells of a body"),
        ("Upgrade", "the Upgrade header 'websocket, 0' is not acceptable"),
        ("Sec-WebSocket-Accept", "the Sec-WebSocket-Accept header"),
    ],
)
async def test_a_101_that_no_client_would_understand_is_a_500(
    name: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    def process_response(request: creche.Request, response: creche.Response) -> None:
        response.headers.add(name, "0")

    async with creche.serving(echo, "127.0.0.1", process_response=process_response) as server:
        assert (await refusal(server.url)).status == 500
        assert server.stats.open == 0
    assert f"ValueError: the response cannot be sent: {why}" in caplog.text


async def test_a_101_of_process_request_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async with creche.serving(
        echo, "127.0.0.1", process_request=lambda _: creche.Response(101)
    ) as server:
        assert (await refusal(server.url)).status == 500
    assert "process_request must return None to go on, not status 101" in caplog.text
