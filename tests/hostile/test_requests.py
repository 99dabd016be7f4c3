"""Requests of HTTP, whatever they ask for: what is well-formed is shown to the hook."""

from __future__ import annotations

import anyio
import h11
import pytest

import creche
from support import REQUEST, echo

pytestmark = pytest.mark.anyio


def health(request: creche.Request) -> creche.Response | None:
    if request.path != "/health":
        return None
    told = f"{request.method} {request.http_version} {request.headers.get('Host')}\n"
    return creche.Response(200, body=told)


async def ask(server: creche.Server, data: bytes) -> tuple[int, bytes, h11.Response]:
    """What a client of HTTP reads: the status, the body and the head."""
    client = h11.Connection(h11.CLIENT)
    method = data.partition(b" ")[0].decode()
    # It is only told whether there is to be a body; what it sends is ours.
    client.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
    client.send(h11.EndOfMessage())
    async with await anyio.connect_tcp(*server.addresses[0]) as stream:
        await stream.send(data)
        head, body = None, b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                try:
                    client.receive_data(await stream.receive())
                except anyio.EndOfStream:
                    client.receive_data(b"")
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                assert head is not None
                assert (b"connection", b"close") in list(head.headers)
                return head.status_code, body, head


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (b"GET /health HTTP/1.0\r\n\r\n", b"GET 1.0 None\n"),
        (b"GET /health HTTP/1.0\nHost: localhost\n\n", b"GET 1.0 localhost\n"),
        (b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"GET 1.0 None\n"),
        (b"HEAD /health HTTP/1.0\r\n\r\n", b""),
        (b"OPTIONS /health HTTP/1.0\r\n\r\n", b"OPTIONS 1.0 None\n"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET 1.1 localhost\n"),
        (b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
        (b"GET http://localhost/health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET 1.1 localhost\n"),
        (b"GET http://localhost/health HTTP/1.0\r\n\r\n", b"GET 1.0 localhost\n"),
        (
            b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nsome",
            b"POST 1.1 localhost\n",
        ),
        (
            b"PUT /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz",
            b"PUT 1.1 localhost\n",
        ),
        (b"DELETE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"DELETE 1.1 localhost\n"),
    ],
)
async def test_the_hook_sees_every_well_formed_request(request_: bytes, body: bytes) -> None:
    async with creche.serving(echo, "127.0.0.1", process_request=health) as server:
        status, told, head = await ask(server, request_)
    assert (status, told) == (200, body)
    assert b"content-length" in dict(head.headers)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (REQUEST.replace(b"1.1", b"1.0", 1), 505),
        (b"GET / HTTP/1.0\r\n\r\n", 505),
        (b"POST / HTTP/1.0\r\n\r\n", 405),
        (REQUEST.replace(b"1.1", b"2.0", 1), 505),
        (REQUEST.replace(b"GET", b"POST"), 405),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n"), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"), 101),
        (REQUEST.replace(b" / ", b" ws://localhost/ "), 101),
        (
            REQUEST.replace(b" / ", b" ws://localhost/ ").replace(b"Host: localhost", b"Host: x"),
            101,
        ),
    ],
)
async def test_only_a_get_of_http_1_1_becomes_a_websocket(request_: bytes, expected: int) -> None:
    seen: list[creche.Request] = []
    async with creche.serving(echo, "127.0.0.1", process_request=seen.append) as server:
        async with await anyio.connect_tcp(*server.addresses[0]) as stream:
            await stream.send(request_)
            assert int((await stream.receive()).split()[1]) == expected
    assert len(seen) == (b"HTTP/2.0" not in request_)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    ("response", "status"),
    [
        (creche.Response(204), 204),
        (creche.Response(304), 304),
        (creche.Response(200, {"Transfer-Encoding": "chunked"}, "some"), 200),
        (creche.Response(200, {"Content-Length": "3"}, "some"), 500),
        (creche.Response(200, {"Content-Length": "9"}, "some"), 500),
        (creche.Response(204, (), "some"), 500),
        (creche.Response(102), 500),
    ],
)
async def test_an_answer_is_well_formed_or_a_500(
    response: creche.Response, status: int, version: bytes
) -> None:
    async with creche.serving(echo, "127.0.0.1", process_request=lambda _: response) as server:
        request = b"GET / HTTP/%b\r\nHost: localhost\r\n\r\n" % version
        told, body, head = await ask(server, request)
    assert told == status
    assert body == (b"some" if status == 200 else body)
    assert (b"content-length" in dict(head.headers)) is (status in (304, 500))
