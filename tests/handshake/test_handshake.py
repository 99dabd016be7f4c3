from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from creche.handshake.client import MAX_INTERIM_ANSWERS, ClientHandshake
from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.exceptions import (
    HandshakeError,
    InvalidHeader,
    InvalidMessage,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    Rejection,
)
from creche.handshake.http import Request, Response
from creche.handshake.reading import MAX_BODY_BYTES
from creche.handshake.rules import accept_key, check_subprotocols
from creche.handshake.server import (
    ServerHandshake,
    check_hosts,
    check_origins,
    reject,
)
from creche.handshake.uri import parse_uri
from creche.protocol.deflate import Deflate

URI = parse_uri("ws://localhost:8765/chat")

REQUEST = (
    "GET /chat HTTP/1.1\r\n"
    "Host: server.example.com\r\n"
    "Upgrade: websocket\r\n"
    "Connection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "\r\n"
)


def answer(request: str, **options: Any) -> Response:
    """The server's answer to a request, whatever it is."""
    handshake = ServerHandshake(**options)
    try:
        received = handshake.receive_data(request.encode("latin-1"))
        assert received is not None
        return handshake.accept(received)
    except Rejection as exc:
        assert handshake.respond(exc.response).startswith(
            f"HTTP/1.1 {exc.response.status} ".encode()
        )
        return exc.response


# The server


def test_the_example_of_rfc_6455_1_3() -> None:
    response = answer(REQUEST)
    assert response.status == 101
    assert response.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert response.headers["Upgrade"] == "websocket"
    assert response.headers["Connection"] == "Upgrade"


def other_host(origin: str) -> str:
    why = 'it is of another host; the option origins="same-host" is in force'
    return f"Origin {origin} is not allowed: {why}"


WITH_BODY = "a request with a body cannot become a WebSocket"
NO_KEY = "the Sec-WebSocket-Key header is missing"
SHORT_KEY = (
    "the Sec-WebSocket-Key header 'dGhlIA==' is not acceptable: it is not 16 bytes in base64"
)
NOT_BASE64 = "the Sec-WebSocket-Key header is not base64"
TWO_KEYS = (
    "the Sec-WebSocket-Key header 'dGhlIHNhbXBsZSBub25jZQ==, x' is not acceptable: "
    "it stands there more than once"
)
NO_VERSION = "the Sec-WebSocket-Version header is missing"
TWO_ORIGINS = "the Origin header stands there more than once"
NO_UPGRADE = "this is a WebSocket server: the"
TOO_LARGE = "the head of the opening handshake has more than 16384 bytes"

REFUSALS = [
    ("not HTTP at all\r\n\r\n", 400, "bad request"),
    ("\x16\x03\x01\x02\x00", 400, "bad request: this is not HTTP/1.1, it seems to be TLS"),
    (REQUEST.replace("Host: server.example.com\r\n", ""), 400, "bad request"),
    (REQUEST.replace("\r\n\r\n", "\r\nX: a\x01b\r\n\r\n"), 400, "bad request"),
    (REQUEST.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"), 400, WITH_BODY),
    *(
        (REQUEST.replace("\r\n\r\n", f"\r\nContent-Length: {number}\r\n\r\n"), 400, "bad request")
        for number in ("9" * 5000, "-1", "+1", "1e3", "0x1", "\xb2", "nan")
    ),
    (REQUEST.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, WITH_BODY),
    (REQUEST.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, NO_KEY),
    (REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIA=="), 400, SHORT_KEY),
    (REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "!"), 400, NOT_BASE64),
    (REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "\xe9"), 400, NOT_BASE64),
    (
        REQUEST.replace("Sec-WebSocket-Version", "Sec-WebSocket-Key: x\r\nSec-WebSocket-Version"),
        400,
        TWO_KEYS,
    ),
    (REQUEST.replace("Sec-WebSocket-Version: 13\r\n", ""), 400, NO_VERSION),
    (
        REQUEST.replace("\r\n\r\n", "\r\nOrigin: http://evil.example\r\n\r\n"),
        403,
        other_host("http://evil.example"),
    ),
    (REQUEST.replace("\r\n\r\n", "\r\nOrigin: null\r\n\r\n"), 403, other_host("null")),
    (REQUEST.replace("\r\n\r\n", "\r\nOrigin: http://[\r\n\r\n"), 403, other_host("http://[")),
    (
        REQUEST.replace("\r\n\r\n", "\r\nOrigin: null\r\n\r\n").replace("server.example.com", ""),
        400,
        "bad request: '' is not a host with a port perhaps",
    ),
    (REQUEST.replace("\r\n\r\n", "\r\nOrigin: a\r\nOrigin: b\r\n\r\n"), 400, TWO_ORIGINS),
    (REQUEST.replace("GET", "POST"), 405, "only GET can become a WebSocket"),
    (REQUEST.replace("GET", "HEAD"), 405, "only GET can become a WebSocket"),
    (REQUEST.replace("Upgrade: websocket\r\n", ""), 426, f"{NO_UPGRADE} Upgrade header is missing"),
    (
        REQUEST.replace("websocket\r\n", "h2c\r\n"),
        426,
        f"{NO_UPGRADE} Upgrade header 'h2c' is not acceptable",
    ),
    (
        REQUEST.replace("keep-alive, Upgrade", "keep-alive"),
        426,
        f"{NO_UPGRADE} Connection header 'keep-alive' is not acceptable",
    ),
    (REQUEST.replace("Version: 13", "Version: 8"), 426, "Sec-WebSocket-Version 8 is not supported"),
    ("GET /" + "x" * 20_000, 414, TOO_LARGE),
    ("GET / HTTP/1.1\r\nX: " + "x" * 20_000, 431, TOO_LARGE),
    (REQUEST.replace("HTTP/1.1", "HTTP/1.0"), 505, "the opening handshake needs HTTP/1.1"),
    (REQUEST.replace("HTTP/1.1", "HTTP/2.0"), 505, "the opening handshake needs HTTP/1.1"),
]


@pytest.mark.parametrize(("request_", "status", "text"), REFUSALS)
def test_each_refusal_has_its_status_and_says_why(request_: str, status: int, text: str) -> None:
    response = answer(request_)
    assert response.status == status
    body = response.body.decode()
    assert body == f"{text}\n" or (text == "bad request" and body.startswith(f"{text}: "))


@pytest.mark.parametrize(
    ("request_", "headers"),
    [
        (REQUEST.replace("GET", "PUT"), {"Allow": "GET"}),
        (REQUEST.replace("websocket\r\n", "h2c\r\n"), {"Upgrade": "websocket"}),
        (
            REQUEST.replace("Version: 13", "Version: 8"),
            {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
        ),
    ],
)
def test_a_refusal_says_what_would_do(request_: str, headers: dict[str, str]) -> None:
    response = answer(request_)
    for name, value in headers.items():
        assert response.headers[name] == value


def refuse(request: str) -> bytes:
    handshake = ServerHandshake()
    with pytest.raises(Rejection) as caught:
        handshake.accept(handshake.receive_data(request.encode()) or Request("/"))
    return handshake.respond(caught.value.response)


def test_a_refusal_is_complete_and_closes_the_connection() -> None:
    data = refuse(REQUEST.replace("Upgrade: websocket\r\n", ""))
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
    assert b"Connection: close, Upgrade" in head
    assert b"the Upgrade header is missing" in body


def test_a_refusal_of_head_has_no_body() -> None:
    assert refuse(REQUEST.replace("GET", "HEAD")).endswith(b"\r\n\r\n")


def test_a_request_may_come_byte_by_byte_with_frames_behind_it() -> None:
    handshake = ServerHandshake()
    data = REQUEST.encode()
    assert all(handshake.receive_data(data[i : i + 1]) is None for i in range(len(data) - 1))
    request = handshake.receive_data(data[-1:] + b"\x81\x80")
    assert request is not None
    assert request.path == "/chat"
    handshake.respond(handshake.accept(request))
    assert handshake.trailing_data == b"\x81\x80"


@pytest.mark.parametrize(
    "offered", ["websocket, h2c", "h2c/1,WebSocket", "h2c\r\nUpgrade: websocket", ",websocket,"]
)
def test_a_client_may_offer_other_upgrades_too(offered: str) -> None:
    response = answer(REQUEST.replace("Upgrade: websocket", f"Upgrade: {offered}"))
    assert response.status == 101
    assert response.headers.get_all("Upgrade") == ["websocket"]


@pytest.mark.parametrize("offered", ["h2c, x", "websockets", "websocket/13", "web socket", ","])
def test_what_offers_no_websocket_is_refused(offered: str) -> None:
    assert answer(REQUEST.replace("Upgrade: websocket", f"Upgrade: {offered}")).status == 426


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_options_may_ask_for_the_server_as_a_whole(version: str) -> None:
    handshake = ServerHandshake()
    request = handshake.receive_data(f"OPTIONS * HTTP/{version}\r\nHost: h\r\n\r\n".encode())
    assert request is not None
    assert (request.method, request.path) == ("OPTIONS", "*")
    assert repr(request) == "<Request OPTIONS *>"
    with pytest.raises(Rejection) as caught:
        handshake.check(request)
    assert caught.value.response.status == 405


@pytest.mark.parametrize(("method", "target"), [("GET", "*"), ("options", "*"), ("OPTIONS", "*?x")])
def test_nothing_else_may(method: str, target: str) -> None:
    assert answer(REQUEST.replace("GET /chat", f"{method} {target}")).status == 400


def test_a_host_header_may_be_empty_where_nothing_depends_on_it() -> None:
    request = REQUEST.replace("server.example.com", "")
    for origins in (None, [None]):
        assert answer(request, origins=origins).status == 101
    assert answer(request.replace("/chat", "ws:///chat"), origins=None).status == 400
    assert answer(request).status == 400  # a page's origin is compared with it
    for hosts in ("loopback", ["server.example.com"]):
        assert answer(request, origins=None, hosts=hosts).status == 400


@pytest.mark.parametrize("empty_line", ["\r\n", "\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_an_empty_line_may_come_before_a_request(empty_line: str, size: int) -> None:
    handshake = ServerHandshake()
    data = (empty_line + REQUEST).encode()
    requests = [handshake.receive_data(data[i : i + size]) for i in range(0, len(data), size)]
    assert requests[-1] is not None
    assert requests[-1].path == "/chat"
    assert answer(empty_line + REQUEST.replace("HTTP/1.1", "HTTP/2.0")).status == 505


@pytest.mark.parametrize("lines", ["\r\n\r\n", "\n\n", "\r\n\n", "\n\r\n", "\r", "\r\r\n"])
def test_no_more_than_an_empty_line_may_come_before_a_request(lines: str) -> None:
    assert answer(lines + REQUEST).status == 400


def test_a_response_that_cannot_be_sent_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        ServerHandshake().respond(Response(200, {"Content-Length": "5"}, b"123456"))


def test_a_responses_own_content_length_and_connection_are_not_doubled() -> None:
    response = Response(200, {"Content-Length": "2", "Connection": "keep-alive"}, b"ok")
    data = ServerHandshake().respond(response)
    assert data.lower().count(b"content-length") == 1
    assert b"Connection: close\r\n" in data


ORIGINS: list[tuple[Any, str | None, bool]] = [
    ("same-host", None, True),
    ("same-host", "http://server.example.com", True),
    ("same-host", "https://SERVER.example.com:3000", True),
    ("same-host", "https://example.com", False),
    (None, "https://anywhere.example", True),
    (None, None, True),
    (["https://a.example"], "https://a.example", True),
    (["https://a.example"], "https://b.example", False),
    (["https://a.example"], None, False),
    (["https://a.example", None], None, True),
    ([re.compile(r"https://.*\.example")], "https://b.example", True),
    ([re.compile(r"https://.*\.example")], "https://b.example.com", False),
    ([re.compile(r".*")], None, False),
    ([], "https://a.example", False),
]


@pytest.mark.parametrize(("allowed", "origin", "accepted"), ORIGINS)
def test_only_allowed_origins_are_accepted(
    allowed: Any, origin: str | None, accepted: bool
) -> None:
    check_origins(allowed)
    header = "" if origin is None else f"\r\nOrigin: {origin}"
    response = answer(REQUEST.replace("\r\n\r\n", f"{header}\r\n\r\n"), origins=allowed)
    assert response.status == (101 if accepted else 403)
    if not accepted and allowed != "same-host":
        why = "it is not among those of the option origins"
        assert response.body.decode() == f"Origin {origin} is not allowed: {why}\n"


@pytest.mark.parametrize(
    ("origins", "why"),
    [
        ("https://a.example", 'origins must be "same-host", None or a sequence, not another str'),
        ([1], "origins must hold str, patterns or None, not int"),
        ([None, b"x"], "origins must hold str, patterns or None, not bytes"),
    ],
)
def test_bad_origins_are_refused(origins: Any, why: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_origins(origins)
    assert str(caught.value) == why


LOOPBACK = ["localhost", "localhost:80", "a.localhost.", "127.0.0.1", "127.9.9.9:1", "[::1]:8765"]
LOOPBACK += ["[::ffff:127.0.0.1]:1", "[::FFFF:7f09:1]"]


@pytest.mark.parametrize(
    ("hosts", "given", "allowed"),
    [
        *((None, host, True) for host in ("server.example", "[")),
        *(("loopback", host, True) for host in LOOPBACK),
        *(
            ("loopback", host, False)
            for host in (
                "server.example",
                "xlocalhost",
                "localhost.example",
                "10.0.0.1",
                "[::ffff:10.0.0.1]",
                "[",
                "",
            )
        ),
        *((["A.example", "*.b.example"], host, True) for host in ("a.EXAMPLE:1", "x.b.example.")),
        *((["A.example", "*.b.example"], host, False) for host in ("b.example", "xa.example")),
        ([], "localhost", False),
    ],
)
def test_only_allowed_hosts_are_accepted(hosts: Any, given: str, allowed: bool) -> None:
    check_hosts(hosts)
    handshake = ServerHandshake(hosts=hosts)
    request = Request("/", {"Host": given})
    if allowed:
        handshake.check_host(request)
        return
    with pytest.raises(Rejection) as caught:
        handshake.check_host(request)
    why = "the server listens on loopback" if hosts == "loopback" else "it is unknown"
    assert caught.value.response.status == 421
    assert caught.value.response.body.decode() == (
        f"Host {given} is not allowed: {why}; see the option hosts\n"
    )


@pytest.mark.parametrize(
    ("hosts", "why"),
    [
        ("localhost", 'hosts must be "auto", "loopback", None or a sequence, not another str'),
        (["a", None], "hosts must hold str, not NoneType"),
    ],
)
def test_bad_hosts_are_refused(hosts: Any, why: str) -> None:
    check_hosts("auto")
    with pytest.raises(TypeError) as caught:
        check_hosts(hosts)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("host", "means"),
    [
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("[0:0::1]", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("App.Example.", "app.example"),
        ("*.App.Example.", "*.app.example"),
        ("*.B\u00fccher.example", "*.xn--bcher-kva.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("a_b", "a_b"),
    ],
)
def test_hosts_may_be_written_otherwise(host: str, means: str) -> None:
    assert check_hosts([host]) == [means]
    assert check_hosts([means]) == [means]


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("app.example:8765", "has a port; say the host only"),
        ("[::1]:8765", "is not a domain name"),
        ("user:SECRET@app.example", "has a port"),
        ("*", "is no host; say hosts=None instead of a sequence"),
        ("loopback", 'is no host; say hosts="loopback" instead of a sequence'),
        ("auto", 'is no host; say hosts="auto" instead of a sequence'),
        ("http://u:SECRET@app.example", "is a URI; say its host only"),
        *(
            (bad, "is not a domain name")
            for bad in ("", ".", "*.", "a..b", ".a", "a b", "a/b", "[")
        ),
        *(
            (bad, "is not a domain name")
            for bad in ("*a", "a.*", "*.*.a", "*.::1", "*.a:80", "1::x")
        ),
    ],
)
def test_hosts_that_nobody_asks_for_are_refused(host: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^hosts: '") as caught:
        check_hosts(["a.example", host])
    assert why in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("origin", "means"),
    [
        ("https://App.example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("HTTP://app.example:80/", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://[0:0::1]:8000", "http://[::1]:8000"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("null", "null"),
        ("file://", "file://"),
        ("chrome-extension://aBc/", "chrome-extension://aBc"),
    ],
)
def test_origins_may_be_written_otherwise(origin: str, means: str) -> None:
    assert check_origins([origin]) == [means]
    assert check_origins([means]) == [means]


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        *((bad, "has no scheme; say https://name") for bad in ("app.example", "a:80", "", "//a")),
        ("*", "is no origin; say origins=None instead of a sequence"),
        ("same-host", 'is no origin; say origins="same-host" instead of a sequence'),
        ("https://a/path", "has more than a scheme, a host and a port"),
        ("https://a?q", "has more than a scheme, a host and a port"),
        ("https://u:SECRET@a", "has more than a scheme, a host and a port"),
        ("https://", "has no host"),
        ("https://a:x", "its port is not a number"),
        ("https://[", "its host is malformed"),
        ("https://a b", "has a host that is not a domain name"),
    ],
)
def test_origins_that_no_browser_sends_are_refused(origin: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^origins: number 2 ") as caught:
        check_origins([None, origin])
    assert why in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_extensions_are_offered_chosen_and_agreed_on() -> None:
    client = ClientHandshake(URI, extensions=[PerMessageDeflate()])
    server = ServerHandshake(extensions=[PerMessageDeflate()])
    assert client.extensions == server.extensions == []
    data = client.request_bytes()
    assert b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12;" in data
    request = server.receive_data(data)
    assert request is not None
    response = server.accept(request)
    assert response.headers["Sec-WebSocket-Extensions"] == (
        "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
    )
    server.agreed(response)
    client.receive_data(server.respond(response))
    assert [type(each) for each in client.extensions] == [Deflate]
    assert [type(each) for each in server.extensions] == [Deflate]


def test_extensions_that_the_answer_does_not_name_do_not_hold() -> None:
    server = ServerHandshake(extensions=[PerMessageDeflate()], subprotocols=["a"])
    request = server.receive_data(
        REQUEST.replace(
            "\r\n\r\n",
            "\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a\r\n\r\n",
        ).encode()
    )
    assert request is not None
    server.accept(request)
    assert server.subprotocol == "a"
    server.agreed(Response(101))
    assert server.extensions == []
    assert server.subprotocol is None


def test_a_malformed_offer_of_extensions_is_refused() -> None:
    header = "Sec-WebSocket-Extensions: a b"
    response = answer(REQUEST.replace("\r\n\r\n", f"\r\n{header}\r\n\r\n"))
    assert response.status == 400
    assert response.body.decode() == (
        "the Sec-WebSocket-Extensions header 'a b' is not acceptable: it is malformed\n"
    )


@pytest.mark.parametrize(
    ("supported", "offered", "chosen"),
    [
        ([], "a, b", None),
        (["b", "a"], "a, b", "b"),
        (["c"], "a, b", None),
        (["a"], None, None),
    ],
)
def test_the_servers_order_decides_on_the_subprotocol(
    supported: list[str], offered: str | None, chosen: str | None
) -> None:
    header = "" if offered is None else f"\r\nSec-WebSocket-Protocol: {offered}"
    response = answer(REQUEST.replace("\r\n\r\n", f"{header}\r\n\r\n"), subprotocols=supported)
    assert response.headers.get("Sec-WebSocket-Protocol") == chosen


def test_the_subprotocol_can_be_said() -> None:
    handshake = ServerHandshake(subprotocols=["a"])
    asked = REQUEST.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: a, b\r\n\r\n")
    request = handshake.receive_data(asked.encode())
    assert request is not None
    assert handshake.accept(request, "b").headers["Sec-WebSocket-Protocol"] == "b"
    assert handshake.subprotocol == "b"
    assert "Sec-WebSocket-Protocol" not in handshake.accept(request, None).headers
    assert handshake.subprotocol is None
    with pytest.raises(ValueError, match="the subprotocol that was chosen was not offered"):
        handshake.accept(request, "c")


@pytest.mark.parametrize(
    ("subprotocols", "kind", "message"),
    [
        ("chat", TypeError, "subprotocols must be a sequence of str, not a str"),
        ([1], TypeError, "subprotocols must hold str, not int"),
        (["a", "SECRET=="], ValueError, r"^subprotocols: number 2 is not a token \(RFC"),
        (["a", "a"], ValueError, "stands there twice"),
    ],
)
def test_bad_subprotocols_are_refused(
    subprotocols: Any, kind: type[Exception], message: str
) -> None:
    check_subprotocols(["MQTT", "v1.2", "!"])
    with pytest.raises(kind, match=message):
        check_subprotocols(subprotocols)
    with pytest.raises(kind, match=message):
        ClientHandshake(URI, subprotocols=subprotocols)


# The client


def test_the_request_has_what_rfc_6455_4_1_asks_for() -> None:
    handshake = ClientHandshake(
        parse_uri("ws://me:pw@localhost:8765/chat?x"),
        origin="http://localhost",
        subprotocols=["a", "b"],
        additional_headers=[("X-Token", "t"), ("X-Token", "u")],
        user_agent_header="test",
    )
    lines = handshake.request_bytes().decode().split("\r\n")
    assert lines[0] == "GET /chat?x HTTP/1.1"
    assert lines[1] == "Host: localhost:8765"
    for line in (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Origin: http://localhost",
        "Sec-WebSocket-Protocol: a, b",
        "X-Token: t",
        "X-Token: u",
        "Authorization: Basic bWU6cHc=",
        "User-Agent: test",
    ):
        assert line in lines


def test_each_handshake_has_a_key_of_its_own() -> None:
    keys = {ClientHandshake(URI).request.headers["Sec-WebSocket-Key"] for _ in range(10)}
    assert len(keys) == 10


def test_additional_headers_win_over_defaults_but_not_over_the_handshake() -> None:
    handshake = ClientHandshake(
        parse_uri("ws://me@localhost/"),
        additional_headers={"User-Agent": "mine", "authorization": "Bearer x"},
        user_agent_header="default",
    )
    assert handshake.request.headers.get_all("User-Agent") == ["mine"]
    assert handshake.request.headers.get_all("Authorization") == ["Bearer x"]


RESERVED = {
    "upgrade": "is set by the opening handshake",
    "Connection": "is set by the opening handshake",
    "Host": "is set by the opening handshake, from the URI",
    "Sec-WebSocket-Key": "is set by the opening handshake",
    "Sec-WebSocket-Protocol": "is set by the opening handshake, from what you say of subprotocols",
    "Sec-WebSocket-Later": "is set by the opening handshake",
    "Content-Length": "tells of a body, and the opening handshake has none",
    "Transfer-Encoding": "tells of a body, and the opening handshake has none",
    "Expect": "tells of a body, and the opening handshake has none",
}


@pytest.mark.parametrize("name", RESERVED)
def test_what_the_opening_handshake_sets_or_has_not_cannot_be_added(name: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        ClientHandshake(URI, additional_headers=[("X-A", "b"), (name, "0")])
    assert str(caught.value) == f"additional_headers: {name} {RESERVED[name]}"


def test_an_origin_is_told_once() -> None:
    added = {"Origin": "http://b.example"}
    assert ClientHandshake(URI, additional_headers=added).request.headers["Origin"] == (
        "http://b.example"
    )
    with pytest.raises(ValueError, match="additional_headers: Origin is set by the option origin"):
        ClientHandshake(URI, origin="http://a.example", additional_headers=added)


def respond(
    change: Callable[[str], str] = str, subprotocols: tuple[str, ...] = ("a",)
) -> ClientHandshake:
    """A client that is given a changed answer."""
    handshake = ClientHandshake(URI, subprotocols=subprotocols)
    key = handshake.request.headers["Sec-WebSocket-Key"]
    response = (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n"
        "\r\n"
    )
    handshake.request_bytes()
    handshake.receive_data(change(response).encode("latin-1"))
    return handshake


def test_an_answer_is_taken_with_the_frames_behind_it() -> None:
    handshake = respond(lambda response: response + "\x81\x00")
    assert handshake.response is not None
    assert handshake.response.status == 101
    assert handshake.trailing_data == b"\x81\x00"
    assert handshake.subprotocol is None


def test_an_answer_may_come_byte_by_byte() -> None:
    handshake = ClientHandshake(URI)
    data = handshake.request_bytes()
    server = ServerHandshake()
    request = server.receive_data(data)
    assert request is not None
    answer = server.respond(server.accept(request))
    for i in range(len(answer) - 1):
        assert handshake.receive_data(answer[i : i + 1]) is None
    assert handshake.receive_data(answer[-1:]) is handshake.response


def test_an_interim_answer_is_passed_over() -> None:
    handshake = respond(lambda response: "HTTP/1.1 103 Early Hints\r\n\r\n" + response)
    assert handshake.response is not None


def test_an_interim_answer_may_come_alone() -> None:
    handshake = ClientHandshake(URI)
    handshake.request_bytes()
    assert handshake.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n") is None
    with pytest.raises(InvalidStatus, match="404"):
        handshake.receive_data(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("more", [0, 1])
def test_interim_answers_end(more: int) -> None:
    def interim(response: str) -> str:
        count = MAX_INTERIM_ANSWERS + more
        return "HTTP/1.1 103 Early Hints\r\n\r\n" * count + response

    if not more:
        assert respond(interim).response is not None
        return
    with pytest.raises(InvalidMessage, match=r"^the server sends interim answers without end$"):
        respond(interim)


def test_the_last_status_is_599() -> None:
    with pytest.raises(
        InvalidStatus, match=r"^the server answered 599 , not 101 Switching Protocols$"
    ) as caught:
        respond(lambda r: "HTTP/1.1 599 x\r\nX: y\r\nContent-Length: 0\r\n\r\n")
    assert caught.value.response.headers["X"] == "y"
    with pytest.raises(InvalidMessage, match="answered with status 600"):
        respond(lambda r: "HTTP/1.1 600 x\r\nContent-Length: 0\r\n\r\n")


def test_a_subprotocol_that_was_offered_is_taken() -> None:
    handshake = respond(lambda r: r.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: a\r\n\r\n"))
    assert handshake.subprotocol == "a"


def add(line: str) -> Callable[[str], str]:
    return lambda response: response.replace("\r\n\r\n", f"\r\n{line}\r\n\r\n")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda r: "SSH-2.0-x\r\n\r\n", InvalidMessage, "not HTTP/1.1"),
        (lambda r: r.replace("101", "702"), InvalidMessage, "answered with status 702"),
        (lambda r: r.replace("HTTP/1.1", "HTTP/1.0"), InvalidMessage, "101 over HTTP/1.0"),
        (lambda r: r.replace("Upgrade: websocket\r\n", ""), InvalidUpgrade, "Upgrade header"),
        (lambda r: r.replace("websocket", "h2c"), InvalidUpgrade, "Upgrade header 'h2c'"),
        (
            lambda r: r.replace("websocket", "websocket, h2c"),
            InvalidUpgrade,
            "Upgrade header 'websocket, h2c'",
        ),
        (lambda r: r.replace("Connection: Upgrade", "X: y"), InvalidUpgrade, "Connection header"),
        (
            lambda r: re.sub("Accept: .*", "Accept: x\r", r),
            InvalidHeader,
            "^the Sec-WebSocket-Accept header 'x' is not acceptable: it does not match our key$",
        ),
        (lambda r: r.replace("-Accept", "-Except"), InvalidHeader, "Accept header is missing"),
        (add("Sec-WebSocket-Accept: x"), InvalidHeader, "more than once"),
        (add("Sec-WebSocket-Protocol: z"), NegotiationError, "chose a subprotocol not asked for$"),
        (
            add("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a"),
            InvalidHeader,
            "more than once",
        ),
        (add("Sec-WebSocket-Extensions: x"), NegotiationError, "extension not asked for: x"),
        (add("X: a\x01b"), InvalidMessage, "forbidden characters"),
        (add("X: " + "x" * 20_000), InvalidMessage, "more than 16384 bytes"),
    ],
)
def test_an_answer_that_breaks_the_standard_is_refused(
    change: Callable[[str], str], kind: type[HandshakeError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        respond(change)


def test_another_answer_than_101_is_raised_with_its_body() -> None:
    with pytest.raises(InvalidStatus, match="the server answered 404 Not Found") as caught:
        respond(lambda r: "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone")
    assert caught.value.response.status == 404
    assert caught.value.response.body == b"gone"


def test_the_body_of_a_refusal_may_come_later_and_end_with_the_connection() -> None:
    handshake = ClientHandshake(URI)
    handshake.request_bytes()
    assert handshake.receive_data(b"HTTP/1.1 500 Oops\r\n\r\nab") is None
    assert handshake.receive_data(b"cd") is None
    with pytest.raises(InvalidStatus) as caught:
        handshake.receive_eof()
    assert caught.value.response.body == b"abcd"


def test_the_body_of_a_refusal_is_cut() -> None:
    handshake = ClientHandshake(URI)
    handshake.request_bytes()
    with pytest.raises(InvalidStatus) as caught:
        handshake.receive_data(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY_BYTES + 1))
    assert len(caught.value.response.body) == MAX_BODY_BYTES


def test_a_refusal_with_a_broken_body_is_raised_all_the_same() -> None:
    with pytest.raises(InvalidStatus, match="500"):
        respond(lambda r: "HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")


CLOSED = "the server closed the connection before it answered"


def test_a_server_that_says_nothing_is_told_as_such() -> None:
    # So does one that speaks TLS, and is asked without.
    with pytest.raises(InvalidMessage, match=f"^{CLOSED}; if it speaks TLS, say wss$"):
        ClientHandshake(URI).receive_eof()
    with pytest.raises(InvalidMessage, match=f"^{CLOSED}$"):
        ClientHandshake(parse_uri("wss://server.example.com/")).receive_eof()


def test_a_server_that_stops_within_its_answer_is_told_as_such() -> None:
    handshake = ClientHandshake(URI)
    handshake.request_bytes()
    assert handshake.receive_data(b"HTTP/1.1 101 Swi") is None
    with pytest.raises(InvalidMessage, match=f"^{CLOSED}$"):
        handshake.receive_eof()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"SSH-2.0-x\r\n", "it seems to be SSH: 'SSH-2.0-x'"),
        (b"S", "'S'"),
        (
            b"\x15\x03\x01\x00\x02\x02\x46",
            r"it seems to be TLS: '\x15\x03\x01\x00\x02\x02F'; say wss",
        ),
    ],
)
def test_what_is_no_answer_is_told_at_once(answer: bytes, text: str) -> None:
    handshake = ClientHandshake(URI)
    handshake.request_bytes()
    with pytest.raises(InvalidMessage) as caught:
        handshake.receive_data(answer)
    assert str(caught.value).startswith("the server's answer is not HTTP/1.1")
    assert str(caught.value).endswith(text)


def test_an_echo_of_the_request_does_not_show_it() -> None:
    handshake = ClientHandshake(parse_uri("ws://h/?token=secret"))
    with pytest.raises(InvalidMessage, match="an echo of the request") as caught:
        handshake.receive_data(handshake.request_bytes())
    assert "secret" not in str(caught.value)


def test_what_is_no_request_is_answered_at_once_and_not_quoted() -> None:
    for data, why in (
        (b"SSH-2.0-x\r\n", "not HTTP/1.1, it seems to be SSH"),
        (b"GET /?token=secret\r\n", "not HTTP/1.1, it seems to be HTTP/0.9"),
        (b"secret\r\n", "not HTTP/1.1"),
    ):
        with pytest.raises(Rejection) as caught:
            ServerHandshake().receive_data(data)
        assert caught.value.response.status == 400
        assert caught.value.response.body == f"bad request: this is {why}\n".encode()


def test_client_and_server_understand_each_other() -> None:
    client = ClientHandshake(URI, subprotocols=["x", "y"])
    server = ServerHandshake(subprotocols=["y"])
    request = server.receive_data(client.request_bytes())
    assert request is not None
    assert client.receive_data(server.respond(server.accept(request))) is not None
    assert client.subprotocol == server.subprotocol == "y"


def test_every_error_is_a_handshake_error_and_readable() -> None:
    error = InvalidHeader("Name", None)
    assert str(error) == "the Name header is missing"
    rejection = reject(403, "no")
    assert str(rejection) == "403 Forbidden: no"
    assert rejection.response.body == b"no\n"
    assert isinstance(rejection, HandshakeError)


NOT_FOUND, NO = Response(404), Response(403, (), "no\n")


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (InvalidHeader, ("Upgrade", "value", ": it is odd")),
        (InvalidHeader, ("Name", "***", ": it is odd")),
        (InvalidHeader, ("Name", None, "")),
        (InvalidURI, ("ws://", "has no host")),
        (InvalidStatus, (NOT_FOUND, "no such room")),
        (InvalidProxyStatus, (Response(407),)),
        (InvalidRedirect, (NOT_FOUND, "to nowhere")),
        (Rejection, (NO, "no")),
    ],
)
def test_every_error_can_be_copied(kind: type[HandshakeError], arguments: Any) -> None:
    error = kind(*arguments)
    assert error.args == arguments
    copied = copy.copy(error)
    assert type(copied) is kind
    assert str(copied) == str(error)
