from __future__ import annotations

import importlib
import ssl
import sys
from typing import Any

import anyio
import pytest
from werkzeug.routing import Map, Rule

import creche
from creche.router import Router, route, routing

pytestmark = pytest.mark.anyio


async def home(ws: creche.WebSocket) -> None:
    await ws.send("home")


async def room(ws: creche.WebSocket, name: str, number: int = 0) -> None:
    await ws.send(f"{name} {number}")


RULES = Map(
    [
        Rule("/", endpoint=home),
        Rule("/rooms/<name>", endpoint=room),
        Rule("/rooms/<name>/<int:number>", endpoint=room, websocket=True),
        Rule("/lobby/", endpoint=home),
        Rule("/old", redirect_to="/lobby/"),
        Rule("/post", endpoint=home, methods=["POST"]),
    ]
)


async def say(uri: str, **options: Any) -> str:
    async with creche.connect(uri, **options) as ws:
        return str(await ws.receive())


@pytest.mark.feature("routing")
async def test_the_path_chooses_the_handler() -> None:
    async with routing(RULES, "127.0.0.1") as server:
        assert await say(server.url) == "home"
        assert await say(f"{server.url}rooms/red?x=1") == "red 0"
        assert await say(f"{server.url}rooms/r%C3%A9d/7") == "réd 7"


async def test_what_has_no_route_is_404() -> None:
    async with routing(RULES, "127.0.0.1") as server:
        for path, status in [("none", 404), ("rooms/red/x", 404), ("post", 405)]:
            with pytest.raises(creche.InvalidStatus) as caught:
                await say(f"{server.url}{path}")
            assert caught.value.response.status == status


async def test_redirects_are_followed() -> None:
    async with routing(RULES, "127.0.0.1") as server:
        assert await say(f"{server.url}lobby") == "home"
        assert await say(f"{server.url}old") == "home"
        with pytest.raises(creche.InvalidStatus) as caught:
            await say(f"{server.url}lobby?x=1", max_redirects=0)
        assert caught.value.response.status == 308
        assert caught.value.response.headers["Location"] == f"{server.url}lobby/?x=1"


async def test_redirects_name_the_server_as_it_is_known(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with routing(RULES, "localhost", ssl=server_tls, server_name="app.example") as server:
        with pytest.raises(creche.InvalidStatus) as caught:
            await say(f"{server.url}lobby", ssl=client_tls, max_redirects=0)
        assert caught.value.response.headers["Location"] == "wss://app.example/lobby/"


@pytest.mark.parametrize("is_async", [False, True])
async def test_another_hook_is_asked_first(is_async: bool) -> None:
    def health(request: creche.Request) -> creche.Response | None:
        return creche.Response(204) if request.path == "/health" else None

    async def health_later(request: creche.Request) -> creche.Response | None:
        return health(request)

    hook: Any = health_later if is_async else health
    async with routing(RULES, "127.0.0.1", process_request=hook) as server:
        with pytest.raises(creche.InvalidStatus) as caught:
            await say(f"{server.url}health")
        assert caught.value.response.status == 204
        assert await say(server.url) == "home"


async def test_route_serves_as_serve_does() -> None:
    async with anyio.create_task_group() as tg:

        async def serve(*, task_status: Any) -> None:
            await route(RULES, "127.0.0.1", task_status=task_status)

        server = await tg.start(serve)
        assert await say(server.url) == "home"
        await server.shutdown()


async def test_a_router_serves_in_other_ways_too() -> None:
    router = Router(RULES)
    async with creche.serving(
        router.handler, "127.0.0.1", process_request=router.process_request
    ) as server:
        assert await say(f"{server.url}rooms/red") == "red 0"


def test_a_router_needs_a_map() -> None:
    with pytest.raises(TypeError, match="url_map must be a werkzeug Map, not list"):
        Router([])  # type: ignore[arg-type]


def test_without_its_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "werkzeug.exceptions", None)
    monkeypatch.delitem(sys.modules, "creche.router")
    with pytest.raises(ImportError, match=r"pip install creche\[router\]"):
        importlib.import_module("creche.router")
