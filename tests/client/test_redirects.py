"""Redirects that a client follows, and those that it does not."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import creche
from creche.testing import memory_byte_pair
from support import count_descriptors, echo

pytestmark = pytest.mark.anyio

Process = Callable[[creche.Request], creche.Response | None]


def to(location: str, status: int = 302) -> creche.Response:
    return creche.Response(status, {"Location": location})


def counting_down(request: creche.Request) -> creche.Response | None:
    """Redirects /3 to /2, and so on; /0 is a WebSocket."""
    left = int(request.path.strip("/"))
    return to(f"/{left - 1}") if left else None


@pytest.mark.feature("redirects")
async def test_a_client_goes_where_it_is_redirected() -> None:
    async with creche.serving(echo, "127.0.0.1", subprotocols=["chat"]) as server:
        async with creche.serving(
            echo, "127.0.0.1", process_request=lambda _: to(f"{server.url}path?query", 307)
        ) as front:
            async with creche.connect(front.url, redirects="any") as ws:
                assert ws.request.path == "/path?query"
                assert ws.request.headers["Host"] == f"127.0.0.1:{server.addresses[0][1]}"
                await ws.send("x")
                assert await ws.receive() == "x"


async def test_only_so_many_redirects_are_followed() -> None:
    async with creche.serving(echo, "127.0.0.1", process_request=counting_down) as server:
        async with creche.connect(f"{server.url}10") as ws:
            assert ws.request.path == "/0"
        with pytest.raises(creche.InvalidRedirect, match="more often than max_redirects=10 times"):
            async with creche.connect(f"{server.url}11"):
                pass
        with pytest.raises(creche.InvalidRedirect, match="max_redirects=1 times") as caught:
            async with creche.connect(f"{server.url}2", max_redirects=1):
                pass
        assert caught.value.response.headers["Location"] == "/0"


async def test_redirects_can_be_left_unfollowed() -> None:
    async with creche.serving(echo, "127.0.0.1", process_request=counting_down) as server:
        with pytest.raises(creche.InvalidStatus) as caught:
            async with creche.connect(f"{server.url}1", max_redirects=0):
                pass
        assert type(caught.value) is creche.InvalidStatus
        assert caught.value.response.status == 302


async def test_a_redirect_loop_ends_and_leaves_nothing_open() -> None:
    async with creche.serving(echo, "127.0.0.1", process_request=lambda _: to("/")) as server:
        before = count_descriptors()
        with pytest.raises(creche.InvalidRedirect):
            async with creche.connect(server.url):
                pass
        with anyio.fail_after(5):
            while count_descriptors() > before:  # the server's ends
                await anyio.sleep(0.01)


# What an application adds to the opening handshake; each may be a credential.
ADDED: Any = {
    "additional_headers": {"Cookie": "a=SECRET", "X-Api-Key": "SECRET"},
    "subprotocols": ["chat", "token.SECRET"],
    "origin": "https://SECRET.example",
}
ADDED_FIELDS = {"authorization", "cookie", "x-api-key", "sec-websocket-protocol", "origin"}


@pytest.mark.feature("redirects", "additional_headers")
async def test_a_redirect_within_the_origin_takes_everything_along() -> None:
    seen: list[dict[str, str]] = []

    def redirect(request: creche.Request) -> creche.Response | None:
        seen.append(dict(request.headers))
        return to("/here") if request.path == "/" else None

    async with creche.serving(
        echo, "127.0.0.1", process_request=redirect, subprotocols=["chat"], origins=None
    ) as server:
        uri = server.url.replace("//", "//user:SECRET@")
        async with creche.connect(uri, **ADDED) as ws:
            assert ws.subprotocol == "chat"
    first, second = seen
    assert first.keys() == second.keys()
    assert second.keys() >= ADDED_FIELDS


@pytest.mark.feature("redirects")
async def test_another_origin_is_not_followed_unless_it_is_said() -> None:
    asked: list[str] = []

    def note(request: creche.Request) -> None:
        asked.append(request.path)

    async with creche.serving(echo, "127.0.0.1", process_request=note) as server:
        location = server.url.replace("//", "//user:SECRET@") + "?SECRET"
        async with creche.serving(
            echo, "127.0.0.1", process_request=lambda _: to(location)
        ) as front:
            with pytest.raises(creche.InvalidRedirect) as caught:
                async with creche.connect(front.url, **ADDED):
                    pass
    assert caught.value.why == (
        f'to another origin, {server.url.rstrip("/")}; redirects="any" would follow it'
    )
    assert "SECRET" not in str(caught.value) + repr(caught.value)
    assert asked == []


async def test_another_origin_is_told_nothing_that_the_application_has_added() -> None:
    seen: list[dict[str, str]] = []

    def note(request: creche.Request) -> creche.Response | None:
        seen.append(dict(request.headers))
        return to(f"{front.url}back") if len(seen) == 2 else None

    def redirect(request: creche.Request) -> creche.Response | None:
        seen.append(dict(request.headers))
        return to(f"{server.url}there") if request.path == "/" else None

    async with creche.serving(echo, "127.0.0.1", process_request=note) as server:
        async with creche.serving(echo, "127.0.0.1", process_request=redirect) as front:
            uri = front.url.replace("//", "//user:SECRET@")
            async with creche.connect(uri, redirects="any", **ADDED) as ws:
                assert ws.subprotocol is None
                assert ws.request.path == "/back"
    first, elsewhere, back = seen
    assert first.keys() >= ADDED_FIELDS
    for headers in (elsewhere, back):  # once it has been led away, it may be anybody
        assert "SECRET" not in str(headers)
        assert not ADDED_FIELDS & headers.keys()
        assert headers["user-agent"] == first["user-agent"]


async def test_a_redirect_may_step_from_ws_to_wss(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is the same, and everything goes along; the port cannot be."""

    async def context() -> ssl.SSLContext:
        return client_tls

    monkeypatch.setattr("creche.client.connect.shared_context", context)
    seen: list[dict[str, str]] = []

    def note(request: creche.Request) -> None:
        seen.append(dict(request.headers))

    async with creche.serving(
        echo, "localhost", ssl=server_tls, process_request=note, origins=None
    ) as server:
        async with creche.serving(
            echo, "localhost", process_request=lambda _: to(server.url, 308)
        ) as front:
            uri = front.url.replace("//", "//user:SECRET@")
            async with creche.connect(uri, **ADDED) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"
    assert seen[0].keys() >= ADDED_FIELDS


async def test_redirects_is_one_of_two_words() -> None:
    with pytest.raises(ValueError, match='redirects must be "same-origin" or "any", not True'):
        async with creche.connect("ws://localhost/", redirects=True):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize("option", ["host", "port", "server_hostname"])
async def test_a_client_that_is_bound_to_a_host_stays_there(option: str) -> None:
    def redirect(request: creche.Request) -> creche.Response | None:
        return {"/": to("/here"), "/away": to("ws://elsewhere.example/")}.get(request.path)

    async with creche.serving(echo, "127.0.0.1", process_request=redirect) as server:
        host, port = server.addresses[0]
        options: Any = {option: {"host": host, "port": port, "server_hostname": "x"}[option]}
        async with creche.connect(server.url, **options) as ws:
            assert ws.request.path == "/here"
        with pytest.raises(creche.InvalidRedirect, match=r"to elsewhere.example, but this client"):
            async with creche.connect(f"{server.url}away", **options):
                pass


async def test_a_unix_socket_is_an_origin(unix_path: Path) -> None:
    def redirect(request: creche.Request) -> creche.Response | None:
        return {"/": to("/here"), "/away": to("ws://elsewhere.example/")}.get(request.path)

    async with anyio.create_task_group() as tg:

        async def serve(*, task_status: Any) -> None:
            await creche.serve_unix(
                echo, unix_path, process_request=redirect, task_status=task_status
            )

        server = await tg.start(serve)
        async with creche.connect_unix(unix_path) as ws:
            assert ws.request.path == "/here"
        with pytest.raises(creche.InvalidRedirect, match="bound to a host"):
            async with creche.connect_unix(unix_path, "ws://localhost/away"):
                pass
        await server.shutdown()


async def test_a_stream_cannot_be_redirected() -> None:
    ours, theirs = memory_byte_pair()

    async def serve() -> None:
        with pytest.raises(creche.HandshakeError):
            async with creche.server_websocket(theirs, process_request=lambda _: to("/here")):
                pass

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve)
        with pytest.raises(creche.InvalidRedirect, match="bound to a host"):
            async with creche.client_websocket(ours, "ws://localhost/"):
                pass


async def test_nothing_leads_from_wss_to_ws(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with creche.serving(
        echo, "localhost", ssl=server_tls, process_request=lambda _: to("ws://localhost/")
    ) as server:
        with pytest.raises(creche.InvalidRedirect, match="from wss to ws"):
            async with creche.connect(server.url, ssl=client_tls):
                pass
