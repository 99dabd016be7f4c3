from __future__ import annotations

import asyncio
import importlib
import ssl
import sys
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.routing import BaseConverter, Map, Rule

import creche
from creche.handshake.exceptions import Rejection
from creche.handshake.server import ServerHandshake
from creche.handshake.targets import parse_target
from creche.router import Router, route, routing
from support import REQUEST, assert_linear

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


def guard(request: creche.Request) -> creche.Response | None:
    """The check of an application that asks what the path is."""
    path = request.path.partition("?")[0]
    return creche.Response(403) if path == "/admin" or path.startswith("/admin/") else None


async def admin(ws: creche.WebSocket) -> None:
    await ws.send("SECRET")


GUARDED = Map(
    [
        Rule("/", endpoint=home),
        Rule("/admin", endpoint=admin),
        Rule("/admin/users", endpoint=admin),
        Rule("/rooms/<name>", endpoint=room),
        Rule("/rooms/<name>/<int:number>", endpoint=room),
        Rule("/files/<path:name>", endpoint=room),
        Rule("/lobby/", endpoint=home),
        Rule("/hall/<name>/", endpoint=room),
        Rule("/old/<name>", redirect_to="/rooms/<name>"),
    ]
)
ROUTER = Router(GUARDED, process_request=guard)


async def answer(target: str, *fields: str, router: Router = ROUTER, version: str = "1.1") -> Any:
    """What a server with this router says to a request: a status, and a place to go to."""
    handshake = ServerHandshake()
    lines = [f"GET {target} HTTP/{version}", *fields, *REQUEST.decode().split("\r\n")[2:]]
    try:
        request = handshake.receive_data("\r\n".join(lines).encode("utf-8", "surrogatepass"))
        assert request is not None
        response = await router.process_request(request) or handshake.accept(request)
    except Rejection as exc:
        response = exc.response
    assert handshake.respond(response).startswith(b"HTTP/1.1 ")
    return response.status, response.headers.get("Location")


@pytest.mark.parametrize(
    "target",
    [
        *("/admin", "/admin/users", "/%61dmin", "/admin%2fusers", "/admin/%75sers", "/admin?x"),
        *("//admin", "///admin", "//x/admin", "/%2Fadmin", "/%2fadmin", "/.//admin", "/%2e/admin"),
        *(
            "/./admin",
            "/x/../admin",
            "/x/%2e%2e/admin",
            "/admin/",
            "/Admin",
            "/admin;x",
            "/admin%20",
        ),
        *(
            "http:admin",
            "http:/admin",
            "foo:/admin",
            "foo://x/admin",
            "admin",
            "admin?x",
            "/admin#x",
        ),
        *("http://localhost/admin", "ws://localhost/%61dmin", "wss://localhost//admin", "*", "x:1"),
        *("http://localhost/admin/users", "/\\admin", "/%5cadmin", "/admin%00", "/admin%ff"),
    ],
)
async def test_no_target_gets_past_a_check_of_the_path(target: str) -> None:
    status, location = await answer(target, "Host: localhost")
    assert status in (308, 400, 403, 404)
    if status == 308:  # who follows it meets the check
        assert location in ("ws://localhost/admin", "ws://localhost/x/admin")


async def test_slashes_are_merged_unless_the_map_says_otherwise() -> None:
    assert await answer("//rooms//a?x=1", "Host: h") == (308, "ws://h/rooms/a?x=1")
    assert await answer("/rooms//a", "Host: h") == (308, "ws://h/rooms/a")
    assert await answer("//caf%C3%A9", "Host: h") == (308, "ws://h/caf%C3%A9")
    strict = Router(Map([Rule("/a", endpoint=home)], merge_slashes=False))
    assert await answer("//a", "Host: h", router=strict) == (404, None)
    assert await answer("/a", "Host: h", router=strict) == (101, None)


async def test_an_escaped_slash_divides_no_path() -> None:
    for target, parameters in (
        ("/rooms/a%2Fb", {"name": "a%2Fb"}),
        ("/rooms/r%C3%A9d%20%21", {"name": "réd !"}),
        ("/files/a/b%2fc", {"name": "a/b%2Fc"}),
        # Nor is it the same as its text.
        ("/rooms/a%252Fb", {"name": "a%252Fb"}),
        ("/rooms/a%25252fb", {"name": "a%25252fb"}),
        ("/rooms/100%25%2F%2525", {"name": "100%%2F%25"}),
    ):
        request = creche.Request(parse_target(target)[1], {"Host": "h"})
        assert await ROUTER.process_request(request) is None
        assert request.state["creche.route"][1] == parameters


@pytest.mark.parametrize(
    "name", ["a%2Fb", "a%252Fb", "a%25252fb", "%25%2F", "%2525%25", "100%25", "%3F%C3%A9%23"]
)
async def test_a_redirect_leads_to_the_path_that_is_meant(name: str) -> None:
    assert await answer(f"/hall/{name}?x=%252F", "Host: h") == (
        308,
        f"ws://h/hall/{name}/?x=%252F",
    )
    assert await answer(f"//rooms/{name}", "Host: h") == (308, f"ws://h/rooms/{name}")
    assert await answer(f"/old/{name}", "Host: h") == (308, f"ws://h/rooms/{name}")


# What stands in a rule, and `request.path` of who is taken there.
RULED = {
    "/admin": "/admin",
    "/jobs:cancel": "/jobs:cancel",
    "/@admin": "/@admin",
    "/team+admin": "/team+admin",
    "/a!$&'()*,;=-._~": "/a!$&'()*,;=-._~",
    '/a"[\\]^`{}>': '/a"[\\]^`{}>',
    "/caf\xe9/\U0001f600": "/caf%C3%A9/%F0%9F%98%80",
    "/a b\x7f": "/a%20b%7F",
    "/a?b#c": "/a%3Fb%23c",
    "/100%": "/100%25",
    "/%41": "/%2541",
    "/a%2Fb": "/a%2Fb",
    "/a%252Fb": "/a%252Fb",
    "/team:/@x/": "/team:/@x/",
}
# Each is its own endpoint.
RULER = Map([Rule(rule, endpoint=rule) for rule in RULED] + [Rule("/as/<name>", endpoint="")])


async def find_route(target: str) -> tuple[str, Any]:
    """The path that a check sees, and where the router leads; None for nowhere."""
    request = ServerHandshake().receive_data(REQUEST.replace(b" / ", f" {target} ".encode(), 1))
    assert request is not None
    answer = await Router(RULER).process_request(request)
    return request.path, None if answer else request.state["creche.route"]


def written(text: str) -> st.SearchStrategy[str]:
    """The many ways to write a path: each character as it is, escaped, or escaped twice."""

    def ways(character: str) -> list[str]:
        escaped = "".join(f"%{byte:02X}" for byte in character.encode())
        again = [escaped.replace("%", "%25"), escaped.lower().replace("%", "%25")]
        plain = [character] if "!" <= character <= "~" and character not in "?#" else []
        return [*plain, escaped, escaped.lower(), *again]

    return st.tuples(*(st.sampled_from(ways(character)) for character in text)).map("".join)


@pytest.mark.parametrize(("rule", "path"), RULED.items())
async def test_a_rule_is_reached_by_one_path(rule: str, path: str) -> None:
    assert await find_route(path) == (path, (rule, {}))


@given(st.sampled_from(list(RULED)).flatmap(lambda rule: written(rule[1:])))
@settings(max_examples=1000, deadline=None)
def test_no_way_to_write_a_path_gets_past_a_check_of_it(target: str) -> None:
    path, found = asyncio.run(find_route(f"/{target}"))
    assert found is None or path == RULED[found[0]]


@given(
    st.text("a%25Ff/:\xe9 ", min_size=1, max_size=6).flatmap(lambda t: st.tuples(*[written(t)] * 2))
)
@settings(max_examples=1000, deadline=None)
def test_parameters_are_the_same_where_the_path_is(targets: tuple[str, str]) -> None:
    (path, found), (other, others) = (asyncio.run(find_route(f"/as/{t}")) for t in targets)
    if found and others:
        assert (path == other) == (found == others)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("a..b", 400), (".", 400), ("x" * 70, 400), ("x" * 300, 400), ("-", 101), ("a_b:1", 101)),
        *(("[::1]:80", 101), ("%61", 101), ("xn--a", 101), ("a.", 101)),
    ],
)
async def test_a_host_that_is_no_name_is_a_bad_request(host: str, status: int) -> None:
    assert (await answer("/", f"Host: {host}"))[0] == status
    named = Router(GUARDED, server_name="app.example")
    assert (await answer("/", f"Host: {host}", router=named))[0] == 101


async def test_where_nobody_names_a_host_a_redirect_names_one() -> None:
    assert await answer("/lobby", version="1.0") == (308, "ws://localhost/lobby/")
    request = creche.Request("/lobby", {"Host": ""})
    response = await ROUTER.process_request(request)
    assert response is not None
    assert response.headers["Location"] == "ws://localhost/lobby/"


async def test_what_asks_for_the_server_as_a_whole_has_no_route() -> None:
    router = Router(Map([Rule("/<name>/", endpoint=home)]))
    assert await router.process_request(creche.Request("*", method="OPTIONS")) is None


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/rooms/%ff", 400),
        ("/%c3%28", 400),
        (f"/rooms/a/{'9' * 5000}", 404),
        ("/rooms/a/%D9%A3", 101),
        ("/hall/%E2%82%AC", 308),
        ("/old/%E2%82%AC", 308),
        ("/old/%0d%0aX:%20y", 308),
        ("//[", 308),
        ("/%", 404),
    ],
)
async def test_a_path_that_no_rule_expects_is_no_error_of_ours(target: str, status: int) -> None:
    assert (await answer(target, "Host: h"))[0] == status


async def test_what_a_converter_refuses_is_no_path() -> None:
    class Hexadecimal(BaseConverter):
        def to_python(self, value: str) -> int:
            return int(value, 16)

    rules = [Rule("/<hex:number>", endpoint=home)]
    router = Router(Map(rules, converters={"hex": Hexadecimal}))
    assert await answer("/ff", "Host: h", router=router) == (101, None)
    assert await answer("/xyz", "Host: h", router=router) == (404, None)


@pytest.mark.parametrize("pattern", ["a", "/", "a/", "%2F", "%61", "%C3%A9", "../", "?", "rooms/"])
@pytest.mark.parametrize("before", ["/", "/rooms/", "/files/"])
def test_a_route_is_found_in_proportion(before: str, pattern: str) -> None:
    def find(path: str) -> None:
        with pytest.raises(StopIteration):
            ROUTER.process_request(creche.Request(path, {"Host": "h"})).send(None)

    find(before + pattern * 2**15)
    assert_linear(lambda n: before + pattern * n, find, 60)


TARGETS = [
    *(
        "/",
        "//",
        "admin",
        "rooms",
        "old",
        "hall",
        "lobby",
        "a",
        "..",
        ".",
        "%",
        "%2f",
        "%61",
        "%ff",
    ),
    *("%00", "%0a", "%C3%A9", "?", "#", "[", "]", "@", ":", ";", "\\", "&", "=", "9" * 5000, "*"),
    *("http://", "ws://", "foo:", "é", "\ud800", "\x7f", "xn--", "٣"),
]
HOSTS = [
    *("localhost", "", ".", "a..b", "x" * 70, "[", "[::1]", "[::1]:80", "a@b", "a:b", "a:99999"),
    *("é", "\ud800", "xn--a", "%", "a/b", "\t", "٣", "a,b", "-", "_", "a b", "a\xa0b"),
]


@given(
    st.lists(st.sampled_from(TARGETS), min_size=1, max_size=5).map("".join),
    st.lists(st.sampled_from(HOSTS), max_size=2),
    st.lists(st.sampled_from(["http://", "null", "://", "http://[", "http://h"]), max_size=1),
    st.sampled_from(["1.0", "1.1", "1.2", "0.9", "2.0", "1.1.1", "x"]),
)
@settings(max_examples=500, deadline=None)
def test_no_request_is_an_error_of_ours(
    target: str, hosts: list[str], origins: list[str], version: str
) -> None:
    fields = [f"Host: {host}" for host in hosts] + [f"Origin: {origin}" for origin in origins]
    status, _ = asyncio.run(answer(target, *fields, version=version))
    assert status != 500


def test_a_router_needs_a_map() -> None:
    with pytest.raises(TypeError, match="url_map must be a werkzeug Map, not list"):
        Router([])  # type: ignore[arg-type]


def test_without_its_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "werkzeug.exceptions", None)
    monkeypatch.delitem(sys.modules, "creche.router")
    with pytest.raises(ImportError, match=r"pip install creche\[router\]"):
        importlib.import_module("creche.router")
