"""Texts of a peer, where they are logged: they forge no line, and move no terminal's cursor."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest

import creche
from creche.protocol.frames import CLOSE
from creche.transports.listening import UnixPath
from support import REQUEST, echo, raw_client, raw_server, said, until

pytestmark = pytest.mark.anyio

EVIL = "a\nERROR forged \x1b[2J\x9b\u2028\u202e\u2066"


def assert_harmless(caplog: pytest.LogCaptureFixture, expected: str) -> None:
    messages = [record.getMessage() for record in caplog.records]
    assert any(expected in message for message in messages), messages
    assert all(message.isprintable() for message in messages), messages
    assert all(len(message) < 1200 for message in messages)


async def test_a_close_reason_forges_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="creche")
    seen: list[creche.ConnectionClosedError] = []

    async def handler(ws: creche.WebSocket) -> None:
        try:
            await ws.receive()
        except creche.ConnectionClosedError as exc:
            seen.append(exc)
            raise

    async with creche.serving(handler, "127.0.0.1") as server:
        async with raw_client(server.url) as peer:
            await peer.send(CLOSE, b"\x0f\xa0" + EVIL.encode())
            await until(lambda: server.stats.closed_by_code)
    lost = [record for record in said(caplog) if record.levelno == logging.INFO]
    assert len(lost) == 1
    assert_harmless(caplog, "a\\nERROR forged \\x1b[2J\\x9b\\u2028\\u202e\\u2066")
    assert seen[0].reason == EVIL  # what programs compare is what came
    assert str(seen[0]).isprintable()
    assert repr(seen[0]).isprintable()


async def test_a_clients_end_of_a_close_reason_is_harmless() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(CLOSE, b"\x0f\xa0" + EVIL.encode())
        with pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.receive()
    assert caught.value.reason == EVIL
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "field",
    [
        b"Origin: http://\x9b2J\x85evil",
        b"Host: \x9b2J\x85evil",
        b"Sec-WebSocket-Version: \x9b2J\x85evil",
        b"Sec-WebSocket-Key: \x9b2J\x85evil",
        b"Upgrade: \x9b2J\x85evil",
        b"Connection: \x9b2J\x85evil",
        b"Sec-WebSocket-Extensions: \x9b2J\x85evil",
        b"Origin: http://evil.example/" + b"x" * 10_000,
    ],
    ids=lambda field: field.partition(b":")[0].decode(),
)
async def test_a_refused_request_forges_no_log_line(
    caplog: pytest.LogCaptureFixture, field: bytes
) -> None:
    caplog.set_level(logging.DEBUG, logger="creche")
    name = field.partition(b":")[0]
    lines = [line for line in REQUEST.split(b"\r\n") if not line.startswith(name + b":")]
    lines.insert(1, field)
    async with creche.serving(echo, "127.0.0.1") as server:
        async with await anyio.connect_tcp(*server.addresses[0]) as stream:
            await stream.send(b"\r\n".join(lines))
            await until(lambda: server.stats.refused)
    assert_harmless(caplog, "opening handshake failed: 4")


@pytest.mark.parametrize("path", ["\0a\x1b[2J\n", b"\0a\x1b[2J\n", "/tmp/no/a\x1b[2J\n"])
async def test_the_path_of_a_unix_socket_is_harmless_in_an_error(path: str | bytes) -> None:
    with pytest.raises(OSError, match=r"cannot connect to .*a\\x1b\[2J\\n") as caught:
        async with creche.connect_unix(path):  # type: ignore[arg-type]
            pass
    assert str(caught.value).isprintable()


async def test_the_path_of_a_unix_socket_is_harmless_where_it_is_listened_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a\x1b[2J\n"
    path.mkdir()  # which unlink() does not remove
    with pytest.raises(OSError, match=r"cannot listen on .*a\\x1b\[2J\\n") as caught:
        await creche.serve_unix(echo, path)
    assert str(caught.value).isprintable()
    UnixPath(path).remove(logging.getLogger("creche"))
    assert_harmless(caplog, "a\\x1b[2J\\n: ")
