from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from creche.protocol.client_handshake import ClientHandshake
from creche.protocol.exceptions import (
    HandshakeError,
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
    Rejection,
)
from creche.protocol.handshake import accept_key, check_subprotocols
from creche.protocol.http import MAX_BODY_BYTES, Request, Response
from creche.protocol.server_handshake import ServerHandshake, check_origins
from creche.protocol.uri import parse_uri

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


REFUSALS = [
    ("not HTTP at all\r\n\r\n", 400, "bad request"),
    ("\x16\x03\x01\x02\x00", 400, "is it TLS?"),
    (REQUEST.replace("Host: server.example.com\r\n", ""), 400, "bad request"),
    (REQUEST.replace("\r\n\r\n", "\r\nX: a\x01b\r\n\r\n"), 400, "bad request"),
    (REQUEST.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"), 400, "with a body"),
    (REQUEST.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, "with a body"),
    (REQUEST.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, "is missing"),
    (REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIA=="), 400, "not 16 bytes"),
    (REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "!"), 400, "not base64"),
    (
        REQUEST.replace("Sec-WebSocket-Version", "Sec-WebSocket-Key: x\r\nSec-WebSocket-Version"),
        400,
        "more than once",
    ),
    (REQUEST.replace("Sec-WebSocket-Version: 13\r\n", ""), 400, "is missing"),
    (REQUEST.replace("\r\n\r\n", "\r\nOrigin: http://evil.example\r\n\r\n"), 403, "same-host"),
    (REQUEST.replace("\r\n\r\n", "\r\nOrigin: null\r\n\r\n"), 403, "same-host"),
    (REQUEST.replace("\r\n\r\n", "\r\nOrigin: http://[\r\n\r\n"), 403, "same-host"),
    (
        REQUEST.replace("\r\n\r\n", "\r\nOrigin: null\r\n\r\n").replace("server.example.com", ""),
        403,
        "same-host",
    ),
    (REQUEST.replace("\r\n\r\n", "\r\nOrigin: a\r\nOrigin: b\r\n\r\n"), 400, "more than once"),
    (REQUEST.replace("GET", "POST"), 405, "only GET"),
    (REQUEST.replace("GET", "HEAD"), 405, "only GET"),
    (REQUEST.replace("Upgrade: websocket\r\n", ""), 426, "WebSocket server"),
    (REQUEST.replace("websocket\r\n", "h2c\r\n"), 426, "WebSocket server"),
    (REQUEST.replace("keep-alive, Upgrade", "keep-alive"), 426, "WebSocket server"),
    (REQUEST.replace("Version: 13", "Version: 8"), 426, "Version 8 is not supported"),
    ("GET /" + "x" * 20_000, 414, "more than 16384 bytes"),
    ("GET / HTTP/1.1\r\nX: " + "x" * 20_000, 431, "more than 16384 bytes"),
    (REQUEST.replace("HTTP/1.1", "HTTP/1.0"), 505, "HTTP/1.1"),
    (REQUEST.replace("HTTP/1.1", "HTTP/2.0"), 505, "HTTP/1.1"),
]


@pytest.mark.parametrize(("request_", "status", "text"), REFUSALS)
def test_each_refusal_has_its_status_and_says_why(request_: str, status: int, text: str) -> None:
    response = answer(request_)
    assert response.status == status
    assert text in response.body.decode()


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
    assert accepted or b"origins" in response.body


@pytest.mark.parametrize("origins", ["https://a.example", [1], [b"x"]])
def test_bad_origins_are_refused(origins: Any) -> None:
    with pytest.raises(TypeError, match="origins must"):
        check_origins(origins)


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


def test_select_subprotocol_decides_instead() -> None:
    request = REQUEST.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: a, b\r\n\r\n")
    seen = []

    def select(request: Request, offered: Any) -> str | None:
        seen.append((request.path, list(offered)))
        return "b"

    response = answer(request, select_subprotocol=select)
    assert response.headers["Sec-WebSocket-Protocol"] == "b"
    assert seen == [("/chat", ["a", "b"])]
    with pytest.raises(ValueError, match="chose 'c', which was not offered"):
        answer(request, select_subprotocol=lambda request, offered: "c")


@pytest.mark.parametrize(
    ("subprotocols", "kind", "message"),
    [
        ("chat", TypeError, "subprotocols must be a sequence of str, not a str"),
        ([1], TypeError, "subprotocols must hold str, not int"),
        (["a b"], ValueError, "subprotocols: 'a b' is not a token"),
        (["a", "a"], ValueError, "stands there twice"),
    ],
)
def test_bad_subprotocols_are_refused(
    subprotocols: Any, kind: type[Exception], message: str
) -> None:
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
    with pytest.raises(ValueError, match="additional_headers: upgrade is set by"):
        ClientHandshake(URI, additional_headers={"upgrade": "h2c"})


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


def test_a_subprotocol_that_was_offered_is_taken() -> None:
    handshake = respond(lambda r: r.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: a\r\n\r\n"))
    assert handshake.subprotocol == "a"


def add(line: str) -> Callable[[str], str]:
    return lambda response: response.replace("\r\n\r\n", f"\r\n{line}\r\n\r\n")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda r: "SSH-2.0-x\r\n\r\n", InvalidMessage, "not HTTP/1.1"),
        (lambda r: r.replace("HTTP/1.1", "HTTP/1.0"), InvalidMessage, "101 over HTTP/1.0"),
        (lambda r: r.replace("Upgrade: websocket\r\n", ""), InvalidUpgrade, "Upgrade header"),
        (lambda r: r.replace("websocket", "h2c"), InvalidUpgrade, "Upgrade header 'h2c'"),
        (lambda r: r.replace("Connection: Upgrade", "X: y"), InvalidUpgrade, "Connection header"),
        (lambda r: r.replace("Accept: ", "Accept: x"), InvalidHeader, "does not match our key"),
        (lambda r: r.replace("-Accept", "-Except"), InvalidHeader, "Accept header is missing"),
        (add("Sec-WebSocket-Accept: x"), InvalidHeader, "more than once"),
        (add("Sec-WebSocket-Protocol: z"), NegotiationError, "subprotocol not asked for: z"),
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


def test_a_server_that_says_nothing_is_told_as_such() -> None:
    with pytest.raises(InvalidMessage, match="closed the connection before it answered"):
        ClientHandshake(URI).receive_eof()


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
    rejection = Rejection(Response(403, (), "no\n"))
    assert str(rejection) == "403 Forbidden: no"
    assert isinstance(rejection, HandshakeError)
