"""What a newcomer does wrong, and the words of the error that say what to do."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import create_autospec

import anyio
import pytest

import creche
from creche.client.advice import add_advice
from creche.connection.callables import check_handler
from creche.server.entered import NotEntered
from creche.testing import memory_pair
from support import echo, free_port, make_tls

pytestmark = pytest.mark.anyio

# For which every name and argument is right.
unchecked: Any = creche


@dataclass
class Scene:
    """What there is to do wrong."""

    ws: Any
    server: creche.Server
    tls_server: creche.Server
    trusting: ssl.SSLContext

    def port(self) -> int:
        port: int = self.server.addresses[0][1]
        return port


def sync_handler(ws: creche.WebSocket) -> None:
    pass


async def old_handler(ws: creche.WebSocket, path: str) -> None:
    pass


async def no_parameters() -> None:
    pass


async def generator(ws: creche.WebSocket) -> Any:
    yield await ws.receive()


class SyncCallable:
    def __call__(self, ws: creche.WebSocket) -> None:
        pass

    def method(self, ws: creche.WebSocket) -> None:
        pass


async def entered(context: Any) -> None:
    async with context:
        pass


async def iterated(iterable: Any) -> None:
    async for _ in iterable:
        pass


def with_option(name: str) -> Callable[[Scene], Any]:
    return lambda s: unchecked.connect(s.server.url, **{name: 1})


async def too_large(scene: Scene) -> None:
    await scene.ws.send("x" * 3000)
    await scene.ws.receive()


async def wrong_scheme(url: str, **options: Any) -> None:
    async with creche.connect(url, **options):
        pass


Mistake = Callable[[Scene], Awaitable[object] | object]

MISTAKES: dict[str, tuple[Mistake, type[BaseException], str]] = {
    # The names of others
    "ws.recv()": (
        lambda s: s.ws.recv(),
        AttributeError,
        r"WebSocket has no 'recv': .* receive\(\)",
    ),
    "ws.close()": (lambda s: s.ws.close(), AttributeError, r"here it is aclose\(code, reason\)"),
    "ws.open": (lambda s: s.ws.open, AttributeError, r"state, which is 'open' then"),
    "ws.closed": (lambda s: s.ws.closed, AttributeError, r"state, which is 'closed' then"),
    "ws.get_message()": (lambda s: s.ws.get_message(), AttributeError, r"here it is receive\(\)"),
    "ws.send_message()": (lambda s: s.ws.send_message(), AttributeError, r"here it is send\(\)"),
    "ws.path": (lambda s: s.ws.path, AttributeError, "here it is request.path"),
    "ws.loop": (lambda s: s.ws.loop, AttributeError, "'loop': leave it out, since a connection"),
    "ws.latenci": (lambda s: s.ws.latenci, AttributeError, "object has no attribute 'latenci'"),
    "open_websocket_url": (
        lambda s: unchecked.open_websocket_url,
        AttributeError,
        r"module 'creche' has no 'open_websocket_url': here it is connect\(\)",
    ),
    "creche.conect": (lambda s: unchecked.conect, AttributeError, "creche' has no 'conect'$"),
    # Options
    "ping_intervall=": (with_option("ping_intervall"), TypeError, "is it 'ping_interval'"),
    "timeout=": (with_option("timeout"), TypeError, "it is open_timeout or close_timeout"),
    "extra_headers=": (with_option("extra_headers"), TypeError, "it is additional_headers for"),
    "loop=": (with_option("loop"), TypeError, "leave it out, since the event loop that runs"),
    "max_message_size=": (with_option("max_message_size"), TypeError, "here it is max_size"),
    "xyz=": (with_option("xyz"), TypeError, "unknown option 'xyz'$"),
    # How things are entered and awaited
    "async with serve()": (
        lambda s: entered(creche.serve(echo)),
        TypeError,
        r"'async with creche\.serving\(\.\.\.\)'",
    ),
    "await serving()": (
        lambda s: unchecked.serving(echo).__await__(),
        TypeError,
        r"entered by 'async with'; what is awaited is serve\(\)",
    ),
    "async for in serving()": (
        lambda s: iterated(creche.serving(echo)),
        TypeError,
        "entered by 'async with'",
    ),
    "with connect()": (
        lambda s: unchecked.connect(s.server.url).__enter__(),
        TypeError,
        r"connect\(\) is entered by 'async with'",
    ),
    "async for in connect()": (
        lambda s: iterated(creche.connect(s.server.url)),
        TypeError,
        r"creche\.reconnecting\(uri\)",
    ),
    "two receive()": (
        lambda s: both(s.ws.receive, s.ws.receive),
        anyio.BusyResourceError,
        "Another task is already receiving",
    ),
    # Handlers
    "a def": (
        lambda s: unchecked.serve(sync_handler),
        TypeError,
        "handler must be an async def: .*sync_handler is a def",
    ),
    "a partial of a def": (
        lambda s: unchecked.serve(partial(sync_handler)),
        TypeError,
        "must be an async def",
    ),
    "an object with a def": (
        lambda s: unchecked.serve(SyncCallable()),
        TypeError,
        "must be an async def: .*SyncCallable.__call__ is a def",
    ),
    "a method that is a def": (
        lambda s: unchecked.serve(SyncCallable().method),
        TypeError,
        "must be an async def",
    ),
    "(ws, path)": (
        lambda s: unchecked.serving(old_handler),
        TypeError,
        r"one argument, the WebSocket: .*\(ws: .*, path: .*the path is ws\.request\.path",
    ),
    "no parameters": (
        lambda s: unchecked.deciding(no_parameters),
        TypeError,
        "handler must take one argument, the PendingRequest: ",
    ),
    "yield": (
        lambda s: unchecked.serve(generator),
        TypeError,
        "must be an async def without yield",
    ),
    "serve(handler(ws))": (
        lambda s: unchecked.serve(echo(s.ws)),
        TypeError,
        "the function itself, not what calling it gives",
    ),
    "run(handler(ws))": (
        lambda s: s.ws.run(echo(s.ws)),
        TypeError,
        "the function itself, not what calling it gives",
    ),
    "reconnect(uri, def)": (
        lambda s: unchecked.reconnect(s.server.url, sync_handler),
        TypeError,
        "must be an async def",
    ),
    # What is sent and asked for
    "send(dict)": (lambda s: s.ws.send({}), TypeError, "message must be str or bytes-like"),
    "aclose(1006)": (lambda s: s.ws.aclose(1006), ValueError, "code 1006 may not be sent"),
    "a large message": (too_large, creche.ConnectionClosedError, "more than max_size=2000 bytes"),
    "no scheme": (
        lambda s: unchecked.connect("localhost:8765"),
        creche.InvalidURI,
        "must begin with ws:// or wss://",
    ),
    "a port of letters": (
        lambda s: unchecked.serve(echo, "x", "1"),
        TypeError,
        "port must be an int",
    ),
    "nobody listens": (
        lambda s: wrong_scheme(f"ws://localhost:{free_port()}"),
        OSError,
        "cannot connect to localhost port",
    ),
    "a port that is taken": (
        lambda s: unchecked.serve(echo, "127.0.0.1", s.port()),
        OSError,
        "cannot listen on 127.0.0.1 port .*in use",
    ),
    "ws to a port with TLS": (
        lambda s: wrong_scheme(s.tls_server.url.replace("wss", "ws")),
        creche.InvalidMessage,
        "if it speaks TLS, say wss",
    ),
    "wss to a port without TLS": (
        lambda s: wrong_scheme(s.server.url.replace("ws", "wss"), ssl=s.trusting),
        ssl.SSLError,
        "does not speak TLS.*; without TLS, say ws$",
    ),
    "a certificate of an authority of one's own": (
        lambda s: wrong_scheme(s.tls_server.url),
        ssl.SSLCertVerificationError,
        r"to trust its authority, pass ssl=ssl\.create_default_context\(cafile=",
    ),
    "a certificate for another name": (
        lambda s: wrong_scheme(s.tls_server.url, ssl=s.trusting, server_hostname="a.example"),
        ssl.SSLCertVerificationError,
        "to expect another name, pass server_hostname",
    ),
    "another origin": (
        lambda s: wrong_scheme(s.server.url, origin="https://a.example"),
        creche.InvalidStatus,
        r'403 .*the option origins="same-host" is in force',
    ),
    "True for a server's ssl": (
        lambda s: unchecked.serve(echo, ssl=True),
        TypeError,
        "ssl must be an SSLContext with the server's certificate",
    ),
}


async def unchecked_start(function: Callable[[], Awaitable[object]]) -> None:
    await function()


async def both(*functions: Callable[[], Awaitable[object]]) -> None:
    """Both at a time; what the second raises."""
    async with anyio.create_task_group() as tg:
        tg.start_soon(unchecked_start, functions[0])
        await anyio.wait_all_tasks_blocked()
        error: BaseException | None = None
        try:
            await functions[1]()
        except Exception as exc:
            error = exc
        tg.cancel_scope.cancel()
    assert error is not None
    raise error


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_told_with_what_to_do(mistake: str) -> None:
    function, kind, words = MISTAKES[mistake]
    server_tls, client_tls = make_tls()
    async with (
        creche.serving(echo, "127.0.0.1", max_size=2000) as server,
        creche.serving(echo, "localhost", ssl=server_tls) as tls_server,
        creche.connect(server.url) as ws,
    ):
        with pytest.raises(kind, match=words), anyio.fail_after(20):
            result = function(Scene(ws, server, tls_server, client_tls))
            if isinstance(result, Awaitable):
                await result


def returning(ws: creche.WebSocket) -> Awaitable[None]:
    return echo(ws)


class AsyncCallable:
    async def __call__(self, ws: creche.WebSocket) -> None:
        pass


def raising(ws: creche.WebSocket) -> Awaitable[None]:
    raise NotImplementedError


@pytest.mark.parametrize(
    "handler",
    [
        *(echo, returning, raising, AsyncCallable(), partial(old_handler, path="x")),
        *(lambda ws: echo(ws), creche.discard, AsyncCallable().__call__),
    ],
)
def test_whatever_may_give_an_awaitable_is_a_handler(handler: Any) -> None:
    check_handler(handler, "the WebSocket")


def test_of_what_nobody_knows_what_it_takes_nothing_is_said() -> None:
    check_handler(dict.fromkeys, "the WebSocket")
    check_handler(type("Odd", (), {"__signature__": 1, "__call__": echo})(), "the WebSocket")


def test_the_names_of_others_are_not_there() -> None:
    members = {name for name in dir(creche.WebSocket) if hasattr(creche.WebSocket, name)}
    assert "receive" in members
    assert not {"recv", "close", "open", "path"} & members
    create_autospec(creche.WebSocket)


async def test_the_names_of_others_are_not_offered() -> None:
    async with memory_pair() as (ws, _):
        assert "receive" in dir(ws)
        assert "recv" not in dir(ws)
        assert not hasattr(ws, "recv")


async def test_what_serve_gives_is_a_coroutine_like_any_other() -> None:
    with anyio.move_on_after(0):
        await creche.serve(echo, "127.0.0.1")
    coroutine: Any = creche.serve(echo, "127.0.0.1")
    assert "serve" in repr(coroutine)
    assert coroutine.__name__ == "serve"
    with pytest.raises(LookupError):
        coroutine.throw(LookupError)
    coroutine.close()


def test_it_is_sent_on_as_an_event_loop_does() -> None:
    async def immediate() -> None:
        pass

    with pytest.raises(StopIteration):
        NotEntered(immediate(), "").send(None)


def test_for_a_certificate_that_has_expired_there_is_no_advice() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate has expired")
    error.verify_code = 10
    add_advice(error)
    assert error.strerror == "certificate has expired"
