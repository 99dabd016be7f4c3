"""No error, log line or repr shows a secret: neither its text, nor its arguments, nor a copy."""

from __future__ import annotations

import base64
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from creche.handshake.client import ClientHandshake
from creche.handshake.exceptions import InvalidHeader, InvalidURI, Rejection
from creche.handshake.extensions import parse_extensions
from creche.handshake.headers import Headers
from creche.handshake.http import Request, Response
from creche.handshake.proxies import ConnectHandshake, Proxy, parse_proxy
from creche.handshake.redaction import shown_authority, without_secrets
from creche.handshake.redirects import redirected
from creche.handshake.rules import accept_key, check_subprotocols, single
from creche.handshake.server import ServerHandshake
from creche.handshake.uri import parse_uri
from creche.options.resolving import client_options, server_options

SECRET = "hunter2"


def chain(exc: BaseException) -> Iterator[BaseException]:
    """An exception, and all that it came from, shown or not."""
    pending: list[BaseException | None] = [exc]
    while pending:
        found = pending.pop()
        if found is not None:
            yield found
            pending += [found.__cause__, found.__context__]


def everything(exc: BaseException) -> str:
    """What a log, a debugger and another process get to see of an exception."""
    texts = []
    for each in chain(exc):
        for shown in (each, copy.copy(each), pickle.loads(pickle.dumps(each))):
            texts += [str(shown), repr(shown), repr(shown.args), repr(vars(shown))]
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("ws://host:80/path", "ws://host:80/path"),
        ("ws://host/path?q#f", "ws://host/path"),
        ("ws://user:hunter2@host/path", "ws://***@host/path"),
        ("ws://user:hunter2/@host/path", "ws://***@host/path"),
        ("ws://user:a@hunter2@host", "ws://***@host"),
        ("ws://user:?hunter2@host", "ws://***"),
        ("ws://user:#hunter2@host", "ws://***"),
        ("ws://host/?a=b@hunter2", "ws://***"),
        ("ws://user:hunter2%40host/", "ws://***@host/"),
        ("ws://user:hunter2/path", "ws://user:***/path"),
        ("ws://host/a:b", "ws://host/a:b"),
        ("ws://[::1]:80/", "ws://[::1]:80/"),
        ("user:hunter2@host", "***@host"),
        (" ws://user:hunter2@host", "***@host"),
        ("http:user:hunter2@host?", "***@host"),
        ("", ""),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    assert without_secrets(uri) == shown
    assert without_secrets(shown) == shown


BAD_URIS = [
    "http://user:hunter2@host/?hunter2",
    "ws://user:hunter2@host/#hunter2",
    "ws://user:hunter2@host:port/",
    "ws://user:hunter2/x@host/",
    "ws://user:hunter2?@host/",
    "ws://user:hunter2",
    "ws://user:hunter2@[::1/",
    "ws://user:hunter2\u2100@host/",  # its NFKC form has a slash
    "ws://user:hunter2@ho st/",
    "ws://us%3Aer:hunter2@host/",
    "ws://user:hunter2\udc80@host/",
]


@pytest.mark.parametrize("uri", BAD_URIS)
def test_a_bad_uri_shows_no_password(uri: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize("uri", [*BAD_URIS, "hunter2:x@proxy.example:3128"])
def test_a_bad_proxy_shows_no_password(uri: str) -> None:
    with pytest.raises(ValueError, match="proxy") as caught:
        parse_proxy(uri.replace("ws://", "http://").replace("#", "/#"))
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize("location", BAD_URIS)
def test_a_bad_redirect_shows_no_password(location: str) -> None:
    base = parse_uri("ws://h/")
    location = location.encode("utf-8", "surrogateescape").decode("latin-1")
    try:
        target = redirected(base, Response(302, {"Location": location}))
    except ValueError as exc:
        raise AssertionError from exc
    except Exception as exc:
        assert SECRET not in everything(exc)
    else:
        assert SECRET not in repr(target)


def test_what_holds_a_secret_does_not_show_it() -> None:
    uri = parse_uri("wss://user:hunter2@host:81/path?hunter2")
    assert repr(uri) == str(uri) == "<URI wss://host:81/path>"
    assert SECRET not in repr(Proxy("http", "h", 80, "user", SECRET))
    assert repr(Request("/path?hunter2")) == "<Request GET /path>"
    assert repr(Request("//x@y/path?hunter2")) == "<Request GET //x@y/path>"
    assert repr(Request("ws://user:hunter2@host/path")) == "<Request GET ws://***@host/path>"
    fields = ["X-Api-Key", "Sec-WebSocket-Protocol", "Cookie", "Location", "X-Anything"]
    assert SECRET not in repr(Headers([(name, SECRET) for name in fields]))


def headers(name: object, value: object) -> Callable[[], object]:
    return lambda: Headers([(name, value)])  # type: ignore[list-item]


BAD_FIELDS: list[Callable[[], object]] = [
    headers("X-Api-Key", "hunter2\n"),
    headers("X-Api-Key", "hunter2☃"),
    headers("X-Api-Key", "hunter2\x00"),
    headers("X-Api-Key", b"hunter2"),
    headers("X-Api-Key", ["hunter2"]),
    headers("X-Api-Key: hunter2", ""),
    headers(b"hunter2", ""),
    lambda: check_subprotocols(["chat", "hunter2=="]),
    lambda: single(Headers([("X-Api-Key", SECRET)] * 2), "X-Api-Key"),
    lambda: parse_extensions("a b"),
    lambda: raised(InvalidHeader("X-Api-Key", SECRET)),
]


def raised(exc: Exception) -> None:
    raise exc


@pytest.mark.parametrize("make", BAD_FIELDS)
def test_an_error_about_a_header_does_not_show_its_value(make: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError, InvalidHeader)) as caught:
        make()
    assert SECRET not in everything(caught.value)
    assert "header" in str(caught.value) or "subprotocols: number 2" in str(caught.value)


BAD_LINES = [
    "GET /?hunter2 HTTP/one\r\n\r\n",
    "GET /hunter2 hunter2 HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nCookie hunter2\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nAuthorization : hunter2\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nX-Api-Key: hunter2\x00\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nX-Api-Key: hunter2\x7f\r\n\r\n",
    "GET / HTTP/1.1\r\nX-Api-Key: hunter2\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: hunter2\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: hunter2\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nhunter2\r\n",
    "GET / HTTP/1.1\r\nHost: user:hunter2@h\r\n\r\n",
    "GET user:hunter2@h HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nOrigin: http://user:hunter2@o\r\n"
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
]


def ask_server(lines: str) -> None:
    handshake = ServerHandshake(hosts=["other"])
    request = handshake.receive_data(lines.encode("latin-1"))
    assert request is not None
    handshake.check_host(request)


def ask_server_from_elsewhere(lines: str) -> None:
    handshake = ServerHandshake()
    request = handshake.receive_data(lines.encode("latin-1"))
    assert request is not None
    handshake.check(request)


@pytest.mark.parametrize("lines", BAD_LINES)
@pytest.mark.parametrize("ask", [ask_server, ask_server_from_elsewhere])
def test_a_bad_request_is_not_quoted(ask: Callable[[str], None], lines: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        ask(lines)
    assert SECRET not in everything(caught.value)
    assert SECRET not in getattr(caught.value, "response").body.decode()  # noqa: B009


def answer_client(answer: str) -> None:
    handshake = ClientHandshake(parse_uri("ws://h/"), subprotocols=["a"])
    handshake.request_bytes()
    accept = accept_key(handshake.request.headers["Sec-WebSocket-Key"])
    assert handshake.receive_data(answer.replace("ACCEPT", accept).encode("latin-1")) is None
    handshake.receive_eof()


def answer_tunnel(answer: str) -> None:
    handshake = ConnectHandshake(parse_proxy("http://user:hunter2@proxy"), "h", 80)
    handshake.request_bytes()
    assert not handshake.receive_data(answer.encode("latin-1"))
    handshake.receive_data(b"")


BAD_ANSWERS = [
    "HTTP/one 200 hunter2\r\n\r\n",
    "HTTP/1.1 200 OK\r\nSet-Cookie hunter2\r\n\r\n",
    "HTTP/1.1 200 OK\r\nSet-Cookie: hunter2\x00\r\n\r\n",
    "HTTP/1.1 200 OK\r\nSet-Cookie: hunter2\x01\r\n\r\n",
    "HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: hunter2\r\n\r\n",
    "HTTP/1.1 401 hunter2\r\nSet-Cookie: hunter2\r\nTransfer-Encoding: chunked\r\n\r\nhunter2\r\n",
    "HTTP/1.1 407 hunter2\r\nSet-Cookie: hunter2\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: hunter2\r\n\r\n",
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
@pytest.mark.parametrize("give", [answer_client, answer_tunnel])
def test_a_bad_answer_is_not_quoted(give: Callable[[str], None], answer: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        give(answer)
    texts = [str(exc) + repr(exc) + repr(exc.args) for exc in chain(caught.value)]
    assert SECRET not in "\n".join(texts)


def test_a_response_that_cannot_be_sent_is_not_quoted() -> None:
    response = Response(200, {"Transfer-Encoding": SECRET})
    with pytest.raises(ValueError, match="cannot be sent: Only Transfer-Encoding") as caught:
        ServerHandshake().respond(response)
    assert SECRET not in everything(caught.value)


def test_what_a_client_may_not_choose_is_not_shown() -> None:
    handshake = ServerHandshake()
    request = handshake.receive_data(BAD_LINES[-1].replace("Origin", "X-Origin").encode())
    assert request is not None
    with pytest.raises(ValueError, match="was not offered") as caught:
        handshake.accept(request, SECRET)
    assert SECRET not in everything(caught.value)


def test_an_applications_answer_is_not_shown_by_the_refusal() -> None:
    refusal = Rejection(Response(200, {"Set-Cookie": SECRET}, SECRET))
    assert str(refusal) == "200 OK"
    assert SECRET not in repr(refusal)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a..b", "'a..b'"),
        ("[::1]", "'[::1]'"),
        ("host:80", "'host:80'"),
        ("user:hunter2", "'user:***'"),
        ("user:hunter2@h", "'***@h'"),
        ("ws://user:hunter2@h", "'ws://***@h'"),
        ("ws://user:hunter2", "'ws://user:***'"),
        ("a\n" + "b" * 1000, "'a\\n" + "b" * 198 + "'..."),
    ],
)
def test_what_should_be_a_host_is_shown_without_a_password(given: str, shown: str) -> None:
    assert shown_authority(given) == shown


@pytest.mark.parametrize("value", ["user:hunter2@h", "user:hunter2", "ws://u:hunter2@h/"])
@pytest.mark.parametrize(
    "name",
    [
        "host",
        "server_hostname",
        "proxy_server_hostname",
        "local_address",
        "redirects",
        "compression",
        "trusted_proxies",
    ],
)
def test_an_option_that_is_wrong_does_not_show_a_password(name: str, value: str) -> None:
    given: Any = [value] if name == "trusted_proxies" else value
    with pytest.raises(ValueError, match=f"^{name}") as caught:
        (server_options if name == "trusted_proxies" else client_options)({name: given})
    assert SECRET not in everything(caught.value)


def test_a_value_that_stands_in_the_name_of_a_header_is_not_shown() -> None:
    added: Any = [("Authorization: Bearer hunter2", None)]
    with pytest.raises(ValueError, match="header name 'Authorization' is not a token") as caught:
        client_options({"additional_headers": added})
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        (None, b"no such room\n", "no such room"),
        ("text/plain; charset=utf-8", b"no\r\n  such\troom", "no such room"),
        ("application/json", b'{"error": "expired"}', '{"error": "expired"}'),
        ("application/problem+json;a=b", b"{}", "{}"),
        ("text/html", b"<html>", ""),
        ("application/octet-stream", b"x", ""),
        ("text/plain", b"\xff\xfe", ""),
        ("text/plain", b"", ""),
        ("text/plain", b"x" * 1000, "x" * 200),
    ],
)
def test_a_refusal_tells_what_the_server_says(
    content_type: str | None, body: bytes, said: str
) -> None:
    fields = {} if content_type is None else {"Content-Type": content_type}
    handshake = ClientHandshake(parse_uri("ws://host/path"))
    error = handshake.invalid_status(Response(403, fields, body))
    assert error.said == said
    assert error.response.body == body
    shown = f": {said!r}" if said else ""
    text = "the server answered 403 Forbidden, not 101 Switching Protocols" + shown
    assert str(error) in (text, text + "...")


def test_what_a_server_says_stays_in_one_line_without_controls() -> None:
    body = "a\n\x1b[2Jb\u202ec\x00d\x85e\u2028f"
    handshake = ClientHandshake(parse_uri("ws://host/"))
    text = str(handshake.invalid_status(Response(403, (), body)))
    assert text.isprintable()
    assert "2Jb" in text


BASIC = base64.b64encode(f"user:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    ("uri", "name", "value"),
    [
        (f"ws://user:{SECRET}@host/", "X", ""),
        (f"ws://host/?token={SECRET}", "X", ""),
        (f"ws://host/?{SECRET}", "X", ""),
        (f"ws://host/?a=b&token={SECRET}%20c", "X", ""),
        ("ws://host/", "Authorization", f"Bearer {SECRET}"),
        ("ws://host/", "Authorization", f"Basic {BASIC}"),
        ("ws://host/", "Authorization", f'Digest a=b, response="{SECRET}"'),
        ("ws://host/", "Cookie", f"theme=dark; session={SECRET}"),
        ("ws://host/", "X-Api-Key", SECRET),
        ("ws://host/", "X-Api-Key", f"{SECRET}; v=1"),
    ],
)
@pytest.mark.parametrize(
    "repeat",
    [
        lambda secret: f"you said {secret}",
        lambda secret: f"{secret.upper()}: unknown",
        lambda secret: "x" * 193 + " " + secret,
        lambda secret: f"unknown token {secret[:6]}...",
        lambda secret: f"unknown token ...{secret[-6:]}",
        lambda secret: "".join(f"%{ord(c):02X}" for c in secret),
        lambda secret: '{"said": "' + secret[:3] + "\\" + secret[3:] + '"}',
    ],
)
def test_a_refusal_that_repeats_a_secret_is_not_shown(
    uri: str, name: str, value: str, repeat: Callable[[str], str]
) -> None:
    handshake = ClientHandshake(parse_uri(uri), additional_headers={name: value})
    error = handshake.invalid_status(Response(401, (), repeat(SECRET)))
    assert error.said == ""
    assert SECRET[:6] not in everything(error).lower()


def test_a_refusal_that_repeats_what_is_public_is_shown() -> None:
    handshake = ClientHandshake(
        parse_uri("ws://name.example/path?v=1"),
        origin="https://origin.example",
        additional_headers={"Authorization": "Bearer abcdefg"},
    )
    said = "1: Bearer for /path at name.example from https://origin.example"
    assert handshake.invalid_status(Response(401, (), said)).said == said
