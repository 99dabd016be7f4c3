"""What a request asks for, and of whom, where a peer writes it in another way than browsers do."""

from __future__ import annotations

import logging

import anyio
import pytest

import creche
from support import REQUEST, echo

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("target", "host", "hooked"),
    [
        ("ws://evil.example/", "localhost", False),
        ("ws://localhost/", "evil.example", True),
        ("http://localhost:80", "localhost", True),
        ("ws://localhost@evil.example/", "localhost", False),
        ("ws://evil.example@localhost/", "localhost", False),
    ],
)
async def test_the_authority_of_a_target_is_checked_as_the_host(
    target: str, host: str, hooked: bool
) -> None:
    seen: list[creche.Request] = []
    lines = (
        REQUEST.decode()
        .replace("GET /", f"GET {target}")
        .replace("localhost\r\nUp", f"{host}\r\nUp")
    )
    async with creche.serving(echo, "127.0.0.1", process_request=seen.append) as server:
        async with await anyio.connect_tcp(*server.addresses[0]) as stream:
            await stream.send(lines.encode())
            answer = await stream.receive()
    assert int(answer.split()[1]) in ((101,) if hooked else (400, 421))
    assert [request.path for request in seen] == ["/"] * hooked
    assert all(request.headers.get_all("host")[0].startswith("localhost") for request in seen)


async def test_an_origin_is_compared_with_the_authority_of_the_target() -> None:
    async def status(target: str, host: str, origin: str) -> int:
        data = REQUEST.replace(b" / ", f" {target} ".encode()).replace(
            b"Host: localhost", f"Host: {host}\r\nOrigin: http://{origin}".encode()
        )
        async with await anyio.connect_tcp(*server.addresses[0]) as stream:
            await stream.send(data)
            return int((await stream.receive()).split()[1])

    async with creche.serving(echo, "127.0.0.1", hosts=None) as server:
        assert await status("ws://a.example/", "b.example", "a.example") == 101
        assert await status("ws://a.example/", "b.example", "b.example") == 403


@pytest.mark.parametrize(
    "host", ["", "a b", "user@localhost", "localhost:x", "[::1", "h\x9b", ":80"]
)
async def test_a_malformed_host_is_a_bad_request(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[creche.Request] = []
    data = REQUEST.replace(b"Host: localhost", b"Host: " + host.encode("latin-1"))
    async with creche.serving(echo, "127.0.0.1", process_request=seen.append, hosts=None) as server:
        async with await anyio.connect_tcp(*server.addresses[0]) as stream:
            await stream.send(data)
            assert (await stream.receive()).startswith(b"HTTP/1.1 400 ")
    assert not seen
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
