"""reconnect(): what is an end, what is tried again, and when."""

from __future__ import annotations

import random
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import creche
from creche.client.reconnect import Backoff, retry_after
from creche.engine.current import current_engine
from creche.handshake.exceptions import InvalidMessage
from creche.options.resolving import RECONNECT_DEFAULTS
from creche.protocol.states import Side
from creche.testing import memory_byte_pair
from creche.transports.streams import StreamTransport
from support import FAKE_TIME, cancelled_once, count_descriptors, echo, free_port, until

QUICK: Any = {"initial_delay": 0.001, "max_delay": 0.002}

Close = Callable[[creche.WebSocket], Any]


async def forever(ws: creche.WebSocket) -> None:
    async for _ in ws:
        pass


# What is an end, and what is not


@pytest.mark.anyio
async def test_a_handler_that_returns_is_the_end() -> None:
    codes = []

    async def server_side(ws: creche.WebSocket) -> None:
        await echo(ws)
        codes.append(ws.close_code)

    async def handler(ws: creche.WebSocket) -> str:
        await ws.send("x")
        return str(await ws.receive())

    async with creche.serving(server_side, "127.0.0.1") as server:
        assert await creche.reconnect(server.url, handler) == "x"
        await until(lambda: codes)
    assert codes == [1000]


async def close_well(ws: creche.WebSocket) -> None:
    await ws.aclose(1000)


async def go_away(ws: creche.WebSocket) -> None:
    await ws.aclose(1001)


async def fail(ws: creche.WebSocket) -> None:
    await ws.aclose(1011)


async def break_off(ws: creche.WebSocket) -> None:
    await anyio.aclose_forcefully(ws)


@pytest.mark.anyio
@pytest.mark.parametrize("end", [close_well, go_away, fail, break_off])
@pytest.mark.parametrize("run", [False, True])
@pytest.mark.feature("reconnect")
async def test_when_the_peer_ends_it_the_handler_runs_again(end: Close, run: bool) -> None:
    turns = 0
    accepted = 0

    async def server_side(ws: creche.WebSocket) -> None:
        nonlocal accepted
        accepted += 1
        if accepted < 3:
            await end(ws)
        else:
            await echo(ws)

    async def handler(ws: creche.WebSocket) -> int:
        nonlocal turns
        turns += 1
        if turns < 3:
            if run:
                await ws.run(forever)
            else:
                await forever(ws)
        return turns

    async with creche.serving(server_side, "127.0.0.1") as server:
        assert await creche.reconnect(server.url, handler, **QUICK) == 3


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["aclose", "send_eof"])
async def test_a_handler_that_has_closed_is_the_end(how: str) -> None:
    async def handler(ws: creche.WebSocket) -> str:
        await getattr(ws, how)()
        if how == "send_eof":
            await forever(ws)
        return "closed"

    async with creche.serving(echo, "127.0.0.1") as server:
        assert await creche.reconnect(server.url, handler) == "closed"


@pytest.mark.anyio
@pytest.mark.parametrize("error", [RuntimeError("x"), ExceptionGroup("x", [ValueError("y")])])
async def test_an_error_of_the_user_is_raised_as_it_is(error: Exception) -> None:
    codes = []

    async def server_side(ws: creche.WebSocket) -> None:
        await forever_or_lost(ws)
        codes.append(ws.close_code)

    async def forever_or_lost(ws: creche.WebSocket) -> None:
        try:
            await forever(ws)
        except creche.ConnectionClosedError:
            pass

    async def handler(ws: creche.WebSocket) -> None:
        raise error

    async with creche.serving(server_side, "127.0.0.1") as server:
        with pytest.raises(type(error)) as caught:
            await creche.reconnect(server.url, handler)
        assert caught.value is error
        await until(lambda: codes)
    assert codes == [1011]


@pytest.mark.anyio
async def test_the_end_of_another_connection_is_an_error_of_the_user() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url) as other:
            await other.aclose()

            async def handler(ws: creche.WebSocket) -> None:
                await other.send("x")

            with pytest.raises(creche.ConnectionAlreadyClosed):
                await creche.reconnect(server.url, handler)


@pytest.mark.anyio
@pytest.mark.parametrize("stage", ["connecting", "waiting", "handling"])
async def test_it_can_be_cancelled_at_any_time(stage: str) -> None:
    reached = anyio.Event()

    async def handler(ws: creche.WebSocket) -> None:
        reached.set()
        await anyio.sleep_forever()

    def note(attempt: creche.Attempt) -> None:
        if stage == "connecting" or attempt.exception is not None:
            reached.set()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with creche.serving(echo, "127.0.0.1") as server:
            port = {
                "connecting": silent.getsockname()[1],
                "waiting": free_port(),
                "handling": server.addresses[0][1],
            }[stage]
            before = count_descriptors()
            async with anyio.create_task_group() as tg:

                async def run() -> None:
                    await creche.reconnect(
                        f"ws://127.0.0.1:{port}/", handler, on_attempt=note, initial_delay=60
                    )

                tg.start_soon(run)
                await reached.wait()
                tg.cancel_scope.cancel()
            await until(lambda: count_descriptors() == before)


# One after the other


@pytest.mark.anyio
async def test_connections_follow_each_other_and_each_is_closed() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.reconnecting(server.url, **QUICK) as connections:
            seen: list[creche.WebSocket] = []
            async for ws in connections:
                assert all(old.close_code == 1000 for old in seen)
                seen.append(ws)
                await ws.send("x")
                assert await ws.receive() == "x"
                if len(seen) == 3:
                    break
            assert seen[-1].close_code is None  # until the context manager is left
        assert seen[-1].close_code == 1000


@asynccontextmanager
async def noting_server() -> AsyncIterator[tuple[creche.Server, list[int | None]]]:
    codes: list[int | None] = []

    async def server_side(ws: creche.WebSocket) -> None:
        try:
            await forever(ws)
        except creche.ConnectionClosedError:
            pass
        codes.append(ws.close_code)

    async with creche.serving(server_side, "127.0.0.1") as server:
        yield server, codes
        await until(lambda: codes)


@pytest.mark.anyio
async def test_leaving_by_an_exception_closes_with_1011() -> None:
    error = RuntimeError("x")
    async with noting_server() as (server, codes):
        with pytest.raises(RuntimeError) as caught:
            async with creche.reconnecting(server.url) as connections:
                async for _ in connections:
                    raise error
        assert caught.value is error
    assert codes == [1011]


@pytest.mark.anyio
async def test_a_timeout_around_the_loop_closes_with_1001() -> None:
    opened = anyio.Event()
    async with noting_server() as (server, codes):
        async with cancelled_once(opened.is_set) as scope:
            async with creche.reconnecting(server.url) as connections:
                async for ws in connections:
                    opened.set()
                    await ws.receive()
        assert scope.cancelled_caught
    assert codes == [1001]


@pytest.mark.anyio
async def test_a_timeout_inside_of_the_context_manager_may_leave_the_loop() -> None:
    opened = anyio.Event()
    async with noting_server() as (server, codes):
        async with creche.reconnecting(server.url, **QUICK) as connections:
            async with cancelled_once(opened.is_set) as scope:
                async for ws in connections:
                    opened.set()
                    await ws.receive()
            assert scope.cancelled_caught
            assert ws.close_code is None
            async for following in connections:  # closes the one before
                assert following is not ws
                assert ws.close_code == 1000
                break
        await until(lambda: len(codes) == 2)
    assert codes == [1000, 1000]


# What is tried again


NOON = "Fri, 31 Dec 1999 12:00:00 GMT"


def status(code: int, **headers: str) -> creche.InvalidStatus:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return creche.InvalidStatus(creche.Response(code, fields))


@pytest.mark.parametrize(
    "exc",
    [
        ConnectionRefusedError(),
        ConnectionResetError(),
        socket.gaierror(),
        TimeoutError(),
        ssl.SSLEOFError(),
        status(408),
        status(429),
        status(500),
        status(503),
        creche.InvalidProxyStatus(creche.Response(502)),
        creche.ProxyError("it is away"),
        InvalidMessage("the server closed the connection before it answered"),
    ],
    ids=repr,
)
def test_what_is_tried_again(exc: Exception) -> None:
    assert creche.process_exception(exc) is None


@pytest.mark.parametrize(
    "exc",
    [
        status(401),
        status(403),
        status(404),
        creche.InvalidRedirect(creche.Response(302), "from wss to ws"),
        creche.InvalidProxyStatus(creche.Response(407)),
        creche.InvalidProxy("python-socks is missing"),
        ssl.SSLCertVerificationError(),
        creche.NegotiationError("x"),
        creche.InvalidUpgrade("Upgrade", "x"),
        ValueError("x"),
    ],
    ids=repr,
)
def test_what_is_not(exc: Exception) -> None:
    assert creche.process_exception(exc) is exc


@pytest.mark.anyio
async def test_a_status_that_will_not_change_is_raised() -> None:
    refuse = creche.Response(403)
    async with creche.serving(echo, "127.0.0.1", process_request=lambda _: refuse) as server:
        with pytest.raises(creche.InvalidStatus) as caught:
            await creche.reconnect(server.url, forever)
        assert caught.value.response.status == 403


@pytest.mark.anyio
async def test_the_decision_can_be_made_otherwise() -> None:
    answers = [creche.Response(403), creche.Response(404)]
    seen = []

    def decide(exc: Exception) -> Exception | None:
        seen.append(exc)
        return None if len(seen) == 1 else RuntimeError("enough")

    async with creche.serving(
        echo, "127.0.0.1", process_request=lambda _: answers.pop(0)
    ) as server:
        with pytest.raises(RuntimeError, match="enough") as caught:
            await creche.reconnect(server.url, forever, process_exception=decide, **QUICK)
    assert [exc.response.status for exc in seen if isinstance(exc, creche.InvalidStatus)] == [
        403,
        404,
    ]
    assert caught.value.__cause__ is seen[1]


@pytest.mark.anyio
async def test_there_can_be_enough_attempts() -> None:
    async def close(ws: creche.WebSocket) -> None:
        await ws.aclose(1012, "come back")

    opened = 0

    async def handler(ws: creche.WebSocket) -> None:
        nonlocal opened
        opened += 1
        await forever(ws)

    async with creche.serving(close, "127.0.0.1") as server:
        with pytest.raises(creche.ConnectionClosedError, match="1012") as caught:
            await creche.reconnect(server.url, handler, max_attempts=3, **QUICK)
    assert caught.value.reason == "come back"
    assert opened == 3
    with pytest.raises(ConnectionRefusedError):
        await creche.reconnect(f"ws://127.0.0.1:{free_port()}/", forever, max_attempts=2, **QUICK)


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True])
async def test_each_attempt_is_told(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="creche.client")
    attempts: list[creche.Attempt] = []

    async def note_later(attempt: creche.Attempt) -> None:
        attempts.append(attempt)

    answers = [creche.Response(503, {"Retry-After": "0"}), None]
    async with creche.serving(
        echo, "127.0.0.1", process_request=lambda _: answers.pop(0)
    ) as server:
        hook = note_later if is_async else attempts.append
        async with creche.reconnecting(server.url, on_attempt=hook, **QUICK) as connections:
            async for _ in connections:
                break
    first, second = attempts
    assert (first.number, first.delay, first.exception) == (1, 0, None)
    assert second.number == 2
    assert 0 <= second.delay <= 0.001
    assert isinstance(second.exception, creche.InvalidStatus)
    [record] = [r for r in caplog.records if "again in" in r.message]
    assert record.message == (
        "connecting to 127.0.0.1 again in 0.0 s: "
        "the server answered 503 Service Unavailable, not 101 Switching Protocols"
    )


@pytest.mark.anyio
async def test_headers_are_read_anew_for_each_attempt() -> None:
    headers: dict[str, str] = {}

    async def renew(attempt: creche.Attempt) -> None:
        headers["Authorization"] = f"Bearer {attempt.number}"

    def process_request(request: creche.Request) -> creche.Response | None:
        new = request.headers["Authorization"] == "Bearer 3"
        return None if new else creche.Response(503)

    async def handler(ws: creche.WebSocket) -> str:
        return ws.request.headers["Authorization"]

    async with creche.serving(echo, "127.0.0.1", process_request=process_request) as server:
        token = await creche.reconnect(
            server.url, handler, additional_headers=headers, on_attempt=renew, **QUICK
        )
    assert token == "Bearer 3"


@pytest.mark.anyio
async def test_wrong_use_is_told_at_once() -> None:
    with pytest.raises(creche.InvalidURI):
        await creche.reconnect("http://localhost/", forever)
    with pytest.raises(ValueError, match="ssl: a ws URI"):
        await creche.reconnect("ws://localhost/", forever, ssl=True)
    with pytest.raises(ValueError, match="max_attempts must be at least 1"):
        await creche.reconnect("ws://localhost/", forever, max_attempts=0)
    with socket.socket() as sock, pytest.raises(ValueError, match=r"sock: .* one connection only"):
        await creche.reconnect("ws://localhost/", forever, sock=sock)


# When


def backoff(**options: Any) -> Backoff:
    settings: Any = {**RECONNECT_DEFAULTS, **options}
    return Backoff(settings)


def test_delays_double_up_to_the_maximum_and_chance_divides_them() -> None:
    plan = backoff(initial_delay=1, max_delay=5)
    assert plan.next_attempt(0.5) == creche.Attempt(1, 0, None)
    exc = OSError()
    delays = []
    for number in range(2, 8):
        plan.failed(exc)
        attempt = plan.next_attempt(1.0)
        assert (attempt.number, attempt.exception) == (number, exc)
        delays.append(attempt.delay)
    assert delays == [1, 2, 4, 5, 5, 5]
    plan.failed(exc)
    assert plan.next_attempt(0.25).delay == 1.25


def test_many_attempts_do_not_overflow() -> None:
    plan = backoff()
    for _ in range(2000):
        plan.failed(OSError())
        assert plan.next_attempt(1.0).delay <= 60


def test_only_a_connection_that_has_held_begins_anew() -> None:
    plan = backoff(initial_delay=1, stable_after=30)
    exc = OSError()
    plan.next_attempt(1.0)
    for opened, ended, delay, number in [(0, 29, 1, 2), (100, 129, 2, 3), (200, 230, 1, 1)]:
        plan.opened(opened)
        plan.ended(ended, exc)
        attempt = plan.next_attempt(1.0)
        assert (attempt.delay, attempt.number) == (delay, number)


@pytest.mark.parametrize(
    ("exc", "seconds"),
    [
        (OSError(), 0),
        (status(503), 0),
        (status(503, Retry_After="7"), 7),
        (status(503, Retry_After="-7"), 0),
        (status(503, Retry_After="soon"), 0),
        (
            status(
                429,
                Retry_After="Fri, 31 Dec 1999 23:59:59 GMT",
                Date="Fri, 31 Dec 1999 23:59:29 GMT",
            ),
            30,
        ),
        (status(429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), 0),
        # of no zone, which is UTC
        (status(503, Retry_After="Fri, 31 Dec 1999 23:59:59 -0000", Date=NOON), 86399 - 43200),
        (status(503, Retry_After="Mon, 01 Jan 0001 00:00:00 GMT", Date=NOON), 86400 * 366 + 43200),
    ],
)
def test_a_server_may_say_how_long_to_wait(exc: Exception, seconds: float) -> None:
    assert retry_after(exc) == seconds


@pytest.mark.parametrize(
    "year", ["0", "99999", "99999999999999999999", "9" * 5000, "-1", "٢٠٢٤", "nan", "1e9", ""]
)
@pytest.mark.parametrize("zone", ["GMT", "-0000", "+9999", "-99999999999999999999", "x"])
def test_a_date_that_is_none_is_as_good_as_no_date(year: str, zone: str) -> None:
    """It ends no reconnect(), whichever of the two it is."""
    date = f"Mon, 01 Jan {year} 00:00:00 {zone}".encode().decode("latin-1")
    assert 0 <= retry_after(status(503, Retry_After=date)) < 2**40
    assert 0 <= retry_after(status(503, Retry_After=NOON, Date=date)) < 2**40
    plan = backoff(initial_delay=1, max_delay=20)
    plan.failed(status(503, Retry_After=date, Date=date))
    assert 0 <= plan.next_attempt(0.5).delay <= 21


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("9" * 5000, float("inf")),
        ("\xb2", 0),  # a digit, and no decimal
        ("1.5", 0),
        ("1e3", 0),
        ("nan", 0),
        ("inf", 0),
        ("+5", 0),
        ("5, 7", 0),
        ("0x10", 0),
    ],
)
def test_seconds_to_wait_are_digits(said: str, seconds: float) -> None:
    assert retry_after(status(503, Retry_After=said)) == seconds


def test_what_the_server_says_is_honoured_up_to_the_maximum() -> None:
    plan = backoff(initial_delay=1, max_delay=20)
    plan.failed(status(503, Retry_After="7"))
    assert plan.next_attempt(0.5).delay == 7.5
    plan.failed(status(503, Retry_After="10000"))
    assert plan.next_attempt(0.5).delay == 21


# Many clients, in time that does not pass


class Network:
    """Opens connections in memory, to a server that can be away."""

    def __init__(self, handler: Callable[[creche.WebSocket], Any]) -> None:
        self.handler = handler
        self.away = False
        self.arrivals: list[float] = []

    async def open(self, target: Any, options: Any, way: Any) -> creche.WebSocket:
        if self.away:
            raise ConnectionRefusedError
        self.arrivals.append(anyio.current_time())
        ours, theirs = memory_byte_pair()
        self.tasks.start_soon(self._serve, theirs)
        request, response = creche.Request("/"), creche.Response(101)
        return creche.WebSocket(
            StreamTransport(ours),
            current_engine().clients,
            Side.CLIENT,
            options,
            request=request,
            response=response,
        )

    async def _serve(self, stream: Any) -> None:
        engine = current_engine()
        options: Any = {**RECONNECT_DEFAULTS, "stall_timeout": 40}
        async with creche.WebSocket(
            StreamTransport(stream),
            engine.clients,
            Side.SERVER,
            options,
            request=creche.Request("/"),
            response=creche.Response(101),
        ) as ws:
            await self.handler(ws)

    @asynccontextmanager
    async def running(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
        monkeypatch.setattr(sys.modules["creche.client.reconnect"], "open_websocket", self.open)
        async with anyio.create_task_group() as self.tasks:
            yield
            self.tasks.cancel_scope.cancel()


@pytest.mark.parametrize("backend", FAKE_TIME)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.feature("reconnect")
def test_a_server_that_accepts_and_closes_is_not_hammered(
    backend: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def close(ws: creche.WebSocket) -> None:
        pass

    async def main() -> int:
        network = Network(close)
        async with network.running(monkeypatch):
            with anyio.move_on_after(60):
                await creche.reconnect("ws://localhost/", forever)
        return len(network.arrivals)

    random.seed(seed)
    attempts = anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())
    assert 2 <= attempts <= 10


@pytest.mark.parametrize("backend", FAKE_TIME)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.feature("reconnect")
def test_clients_do_not_come_back_all_at_once_after_an_outage(
    backend: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = 200

    async def main() -> Counter[int]:
        lost = anyio.Event()

        async def serve(ws: creche.WebSocket) -> None:
            if not lost.is_set():
                await lost.wait()
            else:
                await anyio.sleep_forever()

        network = Network(serve)
        async with network.running(monkeypatch):
            for _ in range(clients):
                network.tasks.start_soon(creche.reconnect, "ws://localhost/", forever)
            await anyio.sleep(100)
            assert len(network.arrivals) == clients
            network.arrivals.clear()
            network.away = True
            lost.set()
            await anyio.sleep(60)
            network.away = False
            await anyio.sleep(120)
        return Counter(int(moment) for moment in network.arrivals)

    random.seed(seed)
    per_second = anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())
    assert per_second.total() == clients
    assert max(per_second.values()) <= clients / 10
