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
            async with creche.connect(front.url, subprotocols=["chat"]) as ws:
                assert ws.request.path == "/path?query"
                assert ws.request.headers["Host"] == f"127.0.0.1:{server.addresses[0][1]}"
                assert ws.subprotocol == "chat"
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


@pytest.mark.feature("redirects", "additional_headers")
async def test_credentials_stay_with_their_origin() -> None:
    seen: list[dict[str, str]] = []

    def note(request: creche.Request) -> None:
        seen.append(dict(request.headers))

    def redirect(request: creche.Request) -> creche.Response:
        note(request)
        return to("/here" if request.path == "/" else server.url)

    async with creche.serving(echo, "127.0.0.1", process_request=note) as server:
        async with creche.serving(echo, "127.0.0.1", process_request=redirect) as front:
            uri = front.url.replace("//", "//user:secret@")
            headers = {"Cookie": "a=b", "X-Client": "c"}
            async with creche.connect(uri, additional_headers=headers):
                pass
    first, same_origin, other = seen
    for headers in (first, same_origin):
        assert headers["authorization"].startswith("Basic ")
        assert headers["cookie"] == "a=b"
    assert "authorization" not in other
    assert "cookie" not in other
    assert all(headers["x-client"] == "c" for headers in seen)


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
