"""Peers that speak something else: whoever meets one is told at once, and what it is.

Nothing here has a deadline but the test's own: what waits for a peer that waits for us would hang.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener

import creche
from support import count_descriptors, echo, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def stranger(greeting: bytes = b"", answer: bytes = b"") -> AsyncIterator[int]:
    """A server that says this, and then nothing more; gives its port."""

    async def serve(stream: Any) -> None:
        async with stream:
            try:
                await stream.send(greeting)
                await stream.receive()
                await stream.send(answer)
                while True:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        async with anyio.create_task_group() as tg:
            tg.start_soon(listener.serve, serve)
            yield listener.extra(SocketAttribute.local_port)
            tg.cancel_scope.cancel()


async def opening(uri: str, **options: Any) -> Exception:
    """What connect() raises."""
    with anyio.fail_after(20), pytest.raises((creche.HandshakeError, OSError)) as caught:
        async with creche.connect(uri, open_timeout=None, **options):
            pass
    return caught.value


# What it says when somebody comes, and what it answers to a request.
STRANGERS: dict[str, tuple[bytes, bytes]] = {
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", b""),
    "SMTP": (b"220 mail.example ESMTP\r\n", b"502 5.5.2 Error: command not recognized\r\n"),
    "FTP": (b"220 FTP server ready\r\n", b"530 Please login\r\n"),
    "POP3": (b"+OK ready\r\n", b"-ERR what?\r\n"),
    "IMAP": (b"* OK ready\r\n", b"GET BAD what?\r\n"),
    "MySQL": (b"J\0\0\0\x0a8.0.36\0" + bytes(64), b""),
    "Redis": (b"", b"-ERR wrong number of arguments for 'get' command\r\n"),
    "TLS": (b"", b"\x15\x03\x01\x00\x02\x02\x46"),
    "HTTP/2": (b"\0\0\x12\x04\0\0\0\0\0" + bytes(18), b""),
    "SOCKS": (b"", b"\x05\xff"),
    "AMQP": (b"", b"AMQP\x00\x00\x09\x01"),
    "HTTP/0.9": (b"", b"<html>what?</html>"),
}


@pytest.mark.parametrize("name", STRANGERS)
async def test_a_server_that_speaks_something_else_is_told_at_once(name: str) -> None:
    async with stranger(*STRANGERS[name]) as port:
        error = await opening(f"ws://127.0.0.1:{port}/")
    assert isinstance(error, creche.InvalidMessage)
    assert f"the server's answer is not HTTP/1.1, it seems to be {name}" in str(error)


@pytest.mark.parametrize("name", STRANGERS)
async def test_a_proxy_that_speaks_something_else_is_told_at_once(name: str) -> None:
    async with stranger(*STRANGERS[name]) as port:
        error = await opening("ws://app.example/", proxy=f"http://127.0.0.1:{port}")
    assert isinstance(error, creche.ProxyError)
    assert f"the proxy's answer is not HTTP/1.1, it seems to be {name}" in str(error)


@pytest.mark.parametrize("name", [name for name in STRANGERS if name != "TLS"])
async def test_a_server_that_does_not_speak_tls_is_told_at_once(name: str) -> None:
    greeting, answer = STRANGERS[name]
    async with stranger(greeting, answer) as port:
        error = await opening(f"wss://127.0.0.1:{port}/")
    assert isinstance(error, ssl.SSLError)
    assert error.reason == "WRONG_VERSION_NUMBER"
    assert f"the server does not speak TLS, it seems to be {name}: " in str(error)


HTTP_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest.mark.parametrize("name", [*(name for name in STRANGERS if name != "TLS"), "HTTP"])
async def test_a_proxy_that_does_not_speak_tls_is_told_at_once(name: str) -> None:
    greeting, answer = STRANGERS.get(name, (b"", HTTP_400))
    async with stranger(greeting, answer) as port:
        error = await opening("ws://app.example/", proxy=f"https://127.0.0.1:{port}")
    assert isinstance(error, creche.ProxyError)
    assert f"the proxy does not speak TLS, it seems to be {name}: " in str(error)
    advice = {"HTTP": "http://", "SOCKS": "socks5h://"}.get(name, "")
    assert str(error).partition("; say ")[2] == advice


@pytest.mark.parametrize("end", ["closes", "resets"])
async def test_a_proxy_that_goes_when_tls_begins_is_told_what_else_to_try(end: str) -> None:
    async def serve(stream: Any) -> None:
        await stream.receive(100 if end == "resets" else 65536)  # unread bytes make it a reset
        await anyio.aclose_forcefully(stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        async with anyio.create_task_group() as tg:
            tg.start_soon(listener.serve, serve)
            port = listener.extra(SocketAttribute.local_port)
            error = await opening("ws://app.example/", proxy=f"https://127.0.0.1:{port}")
            tg.cancel_scope.cancel()
    assert isinstance(error, creche.ProxyError)
    why = "the proxy closed the connection during the TLS handshake"
    assert str(error) == f"{why}; if it does not speak TLS, say http:// or socks5h://"


@pytest.mark.parametrize("scheme", ["socks4", "socks5h"])
@pytest.mark.parametrize("name", ["SSH", "TLS", "HTTP"])
async def test_what_is_no_socks_proxy_is_told_with_what_to_try(scheme: str, name: str) -> None:
    greeting, answer = STRANGERS.get(name, (b"", HTTP_400))
    async with stranger(greeting, answer + bytes(8)) as port:
        error = await opening("ws://127.0.0.1/", proxy=f"{scheme}://127.0.0.1:{port}")
    assert isinstance(error, creche.ProxyError)
    assert "the SOCKS proxy did not connect us: Unexpected" in str(error)
    assert str(error).endswith("; if it speaks HTTP, say http:// or https://")


@pytest.mark.parametrize(
    ("scheme", "answer"), [("socks4", b"\0\x5b" + bytes(6)), ("socks5", b"\x05\xff")]
)
async def test_a_socks_proxy_that_refuses_is_no_other_proxy(scheme: str, answer: bytes) -> None:
    async with stranger(b"", answer) as port:
        error = await opening("ws://127.0.0.1/", proxy=f"{scheme}://127.0.0.1:{port}")
    assert isinstance(error, creche.ProxyError)
    assert "http://" not in str(error)


async def test_a_plain_port_is_told_as_such_by_a_client_of_tls() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        error = await opening(server.url.replace("ws", "wss"))
    text = "the server does not speak TLS, it seems to be HTTP: 'HTTP/1.1 400 Bad Request'"
    assert str(error) == f"[SSL: WRONG_VERSION_NUMBER] {text}; without TLS, say ws"


async def test_a_server_that_nobody_knows_is_told_at_once_with_what_it_says() -> None:
    says = r"'\x1b[2Jwho is\x07 there?'"
    async with stranger(b"\x1b[2Jwho is\x07 there?\n" + b"x" * 1000) as port:
        error = await opening(f"ws://127.0.0.1:{port}/")
        assert isinstance(error, creche.InvalidMessage)
        assert str(error) == f"the server's answer is not HTTP/1.1: {says}"
        error = await opening(f"wss://127.0.0.1:{port}/")
        assert isinstance(error, ssl.SSLError)
        assert str(error).endswith(f"the server does not speak TLS: {says}; without TLS, say ws")


async def test_nothing_is_left_open_where_something_else_answers() -> None:
    async with stranger(b"SSH-2.0-x\r\n") as port:
        uri = f"ws://127.0.0.1:{port}/"
        await opening(uri)  # what an event loop opens at the first use stays open
        before = count_descriptors()
        await opening(uri)
        await opening(uri, proxy=f"http://127.0.0.1:{port}")
        await until(lambda: count_descriptors() <= before)


async def test_a_tls_port_is_told_as_such(server_tls: ssl.SSLContext) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with TLSListener(listener, server_tls) as tls, anyio.create_task_group() as tg:
        tg.start_soon(tls.serve, lambda stream: stream.aclose())
        error = await opening(f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/")
        assert str(error).endswith("before it answered; if it speaks TLS, say wss")
        tg.cancel_scope.cancel()
    async with creche.serving(echo, "127.0.0.1", ssl=server_tls) as server:
        error = await opening(server.url.replace("wss", "ws"))
        assert isinstance(error, creche.InvalidMessage)
        assert str(error).endswith("before it answered; if it speaks TLS, say wss")
        error = await opening("ws://h/", proxy=server.url.replace("wss", "http"))
        assert isinstance(error, creche.ProxyError)
        assert str(error).endswith(
            "before it answered; if it speaks TLS or SOCKS, say https:// or socks5h://"
        )


async def test_a_server_that_resets_the_connection_is_named() -> None:
    # As Python's own ssl does where it is asked without TLS.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for uri, options, text in (
            ("ws://127.0.0.1:{}/", {}, "the server broke .* if it speaks TLS, say wss: Conn"),
            ("ws://h/", {"proxy": "http://127.0.0.1:{}"}, "the proxy broke the connection off"),
        ):

            def serve() -> None:
                sock = listener.accept()[0]
                sock.recv(1)  # and no more: closing it sends a reset then
                sock.close()

            thread = threading.Thread(target=serve)
            thread.start()
            port = listener.getsockname()[1]
            given = {name: value.format(port) for name, value in options.items()}
            with pytest.raises(ConnectionResetError, match=text):
                raise await opening(uri.format(port), **given)
            thread.join()


async def test_the_last_words_of_a_server_that_has_gone_already_are_read() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull")
    error = await opening("ws://h/", sock=ours)
    assert isinstance(error, creche.InvalidStatus)
    assert error.response.status == 503
    assert error.response.body == b"full"


async def test_a_refusal_whose_body_ends_with_a_reset_is_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock = listener.accept()[0]
            sock.recv(1)  # and no more: closing it sends a reset then
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno")
            sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        error = await opening(f"ws://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()
    assert isinstance(error, creche.InvalidStatus)
    assert error.response.status == 403
    assert error.response.body == b"no"


CLIENTS = {
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "SOCKS": b"\x05\x01\x00",
    "SMTP or FTP": b"EHLO client.example\r\n",
    "HTTP/0.9": b"GET /?token=secret\r\n",
    "RDP": b"\x03\x00\x00\x13\x0e\xe0",
}


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_that_speaks_something_else_is_answered_at_once(name: str) -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=None) as server:
        with anyio.fail_after(20):
            answer = b""
            async with await anyio.connect_tcp(*server.addresses[0]) as client:
                await client.send(CLIENTS[name])
                while not answer.endswith(b"\n"):
                    answer += await client.receive()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(f"not HTTP/1.1, it seems to be {name}\n".encode())


PLAIN = {
    "SOCKS": b"\x05\x01\x00",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP": b"GET /?token=secret HTTP/1.1\r\nHost: x\r\n",
}


@pytest.mark.parametrize("name", PLAIN)
async def test_a_client_that_does_not_speak_tls_is_told_at_once_and_not_quoted(
    name: str, server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "creche.server")
    async with creche.serving(echo, "127.0.0.1", ssl=server_tls, open_timeout=None) as server:
        with anyio.fail_after(20):
            async with await anyio.connect_tcp(*server.addresses[0]) as client:
                await client.send(PLAIN[name])
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await client.receive()
    assert f"the client does not speak TLS, it seems to be {name}" in caplog.text
    assert "secret" not in caplog.text


async def test_a_client_that_begins_with_http_2_is_answered_at_once() -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=None) as server:
        with anyio.fail_after(20):
            async with await anyio.connect_tcp(*server.addresses[0]) as client:
                await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                answer = await client.receive()
    assert answer.startswith(b"HTTP/1.1 505 HTTP Version Not Supported\r\n")


# Inside of a tunnel


@asynccontextmanager
async def tunnel_to_stranger(
    greeting: bytes, end: str, server_tls: ssl.SSLContext
) -> AsyncIterator[int]:
    """A proxy over TLS whose tunnels lead to somebody who says this, and then does so."""

    async def serve(stream: Any) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
            await stream.receive()  # the beginning of TLS
            await stream.send(greeting)
            if end == "waits":
                await stream.receive()
            elif end == "resets":
                sock = stream.extra(SocketAttribute.raw_socket)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        finally:
            await anyio.aclose_forcefully(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    tls = TLSListener(listener, server_tls, standard_compatible=False)
    async with tls, anyio.create_task_group() as tg:
        tg.start_soon(tls.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        tg.cancel_scope.cancel()


async def opening_by_tunnel(
    greeting: bytes, end: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> Exception:
    async with tunnel_to_stranger(greeting, end, server_tls) as port:
        return await opening(
            "wss://localhost/",
            ssl=client_tls,
            proxy=f"https://localhost:{port}",
            proxy_ssl=client_tls,
        )


@pytest.mark.parametrize("name", [name for name in STRANGERS if name != "TLS"])
async def test_behind_a_proxy_over_tls_a_server_that_does_not_speak_tls_is_told_at_once(
    name: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    greeting, answer = STRANGERS[name]
    error = await opening_by_tunnel(greeting or answer, "waits", server_tls, client_tls)
    assert isinstance(error, ssl.SSLError)
    assert error.reason == "WRONG_VERSION_NUMBER"
    assert f"the server does not speak TLS, it seems to be {name}: " in str(error)


async def test_behind_a_proxy_over_tls_three_bytes_are_judged_already(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    error = await opening_by_tunnel(b"abc", "waits", server_tls, client_tls)
    assert str(error) == (
        "[SSL: WRONG_VERSION_NUMBER] the server does not speak TLS: 'abc'; without TLS, say ws"
    )


@pytest.mark.parametrize(
    ("end", "kind"), [("closes", ssl.SSLEOFError), ("resets", ConnectionResetError)]
)
async def test_behind_a_proxy_over_tls_a_server_that_goes_is_told_as_by_a_socket(
    end: str, kind: type[OSError], server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    error = await opening_by_tunnel(b"", end, server_tls, client_tls)
    assert type(error) is kind
    assert creche.process_exception(error) is None  # reconnect() tries again
