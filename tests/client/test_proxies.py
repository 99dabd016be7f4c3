"""Connecting through proxies: real ones, of pproxy and Twisted, in processes of their own."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

import creche
from creche.client.proxies import find_proxy
from creche.engine.current import current_engine
from creche.handshake.uri import parse_uri
from programs import listening
from support import count_descriptors, echo, free_port

pytestmark = pytest.mark.anyio

# pproxy looks for an event loop that Python does not make by itself any more.
PPROXY = """
import asyncio, sys
sys.modules["uvloop"] = None
asyncio.set_event_loop(asyncio.new_event_loop())
from pproxy.server import main
main()
"""
# pproxy does not speak SOCKS4a.
TWISTED = """
import sys
from twisted.internet import reactor
from twisted.protocols.socks import SOCKSv4Factory
reactor.listenTCP(int(sys.argv[1]), SOCKSv4Factory(None), interface="127.0.0.1")
reactor.run()
"""
USER, PASSWORD = "user", "p:/@"


@contextmanager
def proxy_process(schemes: str, *arguments: str, credentials: str = "") -> Iterator[int]:
    """A proxy on loopback; gives its port."""
    port = free_port()
    address = f"{schemes}://127.0.0.1:{port}{credentials and '#'}{credentials}"
    with listening("-c", PPROXY, "-l", address, *arguments, port=port):
        yield port


@pytest.fixture(scope="module")
def open_proxy() -> Iterator[int]:
    with proxy_process("http+socks4+socks5") as port:
        yield port


@pytest.fixture(scope="module")
def socks4a_proxy() -> Iterator[int]:
    port = free_port()
    with listening("-c", TWISTED, str(port), port=port):
        yield port


@pytest.fixture(scope="module")
def guarded_proxy() -> Iterator[int]:
    with proxy_process("http+socks5", "--auth", "0", credentials=f"{USER}:{PASSWORD}") as port:
        yield port


@pytest.fixture(scope="module")
def tls_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, ssl.SSLContext]]:
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost")
    directory: Path = tmp_path_factory.mktemp("proxy")
    chain, key = directory / "chain.pem", directory / "key.pem"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    certificate.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    ca.configure_trust(context)
    with proxy_process("http+ssl", "--ssl", f"{chain},{key}") as port:
        yield port, context


async def talk(ws: creche.WebSocket) -> None:
    for message in ("x", b"y" * 300_000):
        await ws.send(message)
        assert await ws.receive() == message


def passed_through(ws: creche.WebSocket, proxy_port: int) -> bool:
    return bool(ws.extra(SocketAttribute.remote_port) == proxy_port)


@pytest.mark.parametrize("scheme", ["http", "socks4", "socks4a", "socks5", "socks5h"])
@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.feature("http_proxy", "socks_proxy")
async def test_each_kind_of_proxy(
    scheme: str,
    secure: bool,
    open_proxy: int,
    socks4a_proxy: int,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    port = socks4a_proxy if scheme == "socks4a" else open_proxy
    async with creche.serving(
        echo, "127.0.0.1", hosts=None, ssl=server_tls if secure else None
    ) as server:
        uri = server.url.replace("127.0.0.1", "localhost")
        tls: Any = {"ssl": client_tls} if secure else {}
        proxy = f"{scheme}://127.0.0.1:{port}"
        async with creche.connect(uri, proxy=proxy, **tls) as ws:
            await talk(ws)
            assert passed_through(ws, port)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.feature("https_proxy")
async def test_tls_to_the_proxy_and_tls_inside_of_it(
    secure: bool,
    tls_proxy: tuple[int, ssl.SSLContext],
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    port, context = tls_proxy
    async with creche.serving(
        echo, "127.0.0.1", hosts=None, ssl=server_tls if secure else None
    ) as server:
        tls: Any = {"ssl": client_tls} if secure else {}
        async with creche.connect(
            server.url, proxy=f"https://localhost:{port}", proxy_ssl=context, **tls
        ) as ws:
            await talk(ws)
            assert ws.extra(TLSAttribute.server_side) is False
        async with creche.connect(
            server.url,
            proxy=f"https://127.0.0.1:{port}",
            proxy_ssl=context,
            proxy_server_hostname="localhost",
            **tls,
        ) as ws:
            await talk(ws)


async def test_the_proxys_certificate_is_verified(tls_proxy: tuple[int, ssl.SSLContext]) -> None:
    before = count_descriptors()
    with pytest.raises(ssl.SSLCertVerificationError):
        async with creche.connect("ws://localhost/", proxy=f"https://localhost:{tls_proxy[0]}"):
            pass
    assert count_descriptors() == before


async def test_inside_of_tls_the_servers_certificate_is_verified(
    tls_proxy: tuple[int, ssl.SSLContext], server_tls: ssl.SSLContext
) -> None:
    port, context = tls_proxy
    async with creche.serving(echo, "127.0.0.1", ssl=server_tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            async with creche.connect(
                server.url, proxy=f"https://localhost:{port}", proxy_ssl=context
            ):
                pass


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_a_user_and_a_password(scheme: str, guarded_proxy: int) -> None:
    current_engine()  # has one of its own
    before = count_descriptors()
    address = f"127.0.0.1:{guarded_proxy}"
    async with creche.serving(echo, "127.0.0.1") as server:
        uri = f"{scheme}://{USER}:{quote(PASSWORD, safe='')}@{address}"
        async with creche.connect(server.url, proxy=uri) as ws:
            await talk(ws)
        for credentials in ("", "user:secret@"):
            with pytest.raises(creche.ProxyError) as caught:
                async with creche.connect(server.url, proxy=f"{scheme}://{credentials}{address}"):
                    pass
            assert "secret" not in str(caught.value)
            if scheme == "http":
                assert isinstance(caught.value, creche.InvalidProxyStatus)
                assert caught.value.response.status == 407
    assert count_descriptors() == before


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_cannot_be_reached(scheme: str) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        async with creche.connect("ws://localhost/", proxy=f"{scheme}://127.0.0.1:{free_port()}"):
            pass


async def test_a_socks_proxy_that_is_named_as_one_of_http() -> None:
    with proxy_process("socks5") as port:
        with pytest.raises(creche.ProxyError, match=r"if it speaks .* SOCKS, say .* socks5h://"):
            async with creche.connect(
                "ws://localhost/", proxy=f"http://127.0.0.1:{port}", open_timeout=None
            ):
                pass


@pytest.mark.parametrize("scheme", ["http", "socks4", "socks5"])
async def test_a_proxy_that_answers_garbage(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(b"\x07garbage\r\n\r\n")
                try:
                    sock.recv(1000)
                except ConnectionResetError:
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        before = count_descriptors()
        with pytest.raises(creche.ProxyError):
            async with creche.connect(
                "ws://localhost/", proxy=f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
            ):
                pass
        thread.join()
        assert count_descriptors() <= before


async def test_a_proxys_answer_may_be_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.transports.sockets.READ_SIZE", 5)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                assert sock.recv(1000).startswith(b"GET / HTTP/1.1\r\nHost: app.example\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(creche.InvalidMessage, match="closed the connection before"):
            async with creche.connect(
                "ws://app.example/", proxy=f"http://127.0.0.1:{listener.getsockname()[1]}"
            ):
                pass
        thread.join()


async def test_a_proxy_is_not_told_a_zone_which_is_one_of_ours() -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                asked.append(sock.recv(1000))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(creche.ProxyError, match="closed the connection"):
            async with creche.connect(
                "ws://[fe80::1%25eth0]/", proxy=f"http://127.0.0.1:{listener.getsockname()[1]}"
            ):
                pass
        thread.join()
    assert asked[0].startswith(b"CONNECT [fe80::1]:80 HTTP/1.1\r\nHost: [fe80::1]:80\r\n")


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_does_not_answer(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        before = count_descriptors()
        with pytest.raises(TimeoutError, match=r"took over 0.05 s"):
            async with creche.connect("ws://localhost/", proxy=proxy, open_timeout=0.05):
                pass
        assert count_descriptors() == before


@pytest.mark.feature("environment_proxy")
async def test_the_environment_names_the_proxy(
    open_proxy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{open_proxy}")
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            assert passed_through(ws, open_proxy)
        for proxy in (None, False):
            async with creche.connect(server.url, proxy=proxy) as ws:
                assert not passed_through(ws, open_proxy)
        sock = socket.create_connection(server.addresses[0])
        async with creche.connect(server.url, sock=sock) as ws:
            assert not passed_through(ws, open_proxy)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with creche.connect(server.url) as ws:
            assert not passed_through(ws, open_proxy)


@pytest.mark.parametrize(
    ("environment", "uri", "scheme", "host"),
    [
        ({"https_proxy": "http://s", "http_proxy": "http://p"}, "wss://x/", "http", "s"),
        ({"https_proxy": "http://s", "http_proxy": "http://p"}, "ws://x/", "http", "s"),
        ({"http_proxy": "http://p"}, "ws://x/", "http", "p"),
        ({"http_proxy": "http://p"}, "wss://x/", None, None),
        ({"wss_proxy": "https://w", "https_proxy": "http://s"}, "wss://x/", "https", "w"),
        ({"ws_proxy": "http://w", "http_proxy": "http://p"}, "ws://x/", "http", "w"),
        ({"socks_proxy": "http://k", "https_proxy": "http://s"}, "wss://x/", "socks5h", "k"),
        ({"socks_proxy": "socks4://k"}, "ws://x/", "socks4", "k"),
        ({"all_proxy": "socks5://a"}, "wss://x/", "socks5", "a"),
        ({"http_proxy": "p:3128"}, "ws://x/", "http", "p"),
        ({"all_proxy": "http://a", "no_proxy": "x"}, "wss://x/", None, None),
        ({"all_proxy": "http://a", "no_proxy": "*"}, "wss://x/", None, None),
        ({"all_proxy": "http://a", "NO_PROXY": "10.0.0.0/8"}, "ws://10.9.8.7/", None, None),
        ({"all_proxy": "http://a", "no_proxy": "127.0.0.0/8"}, "ws://127.1/", None, None),
        ({"all_proxy": "http://a", "no_proxy": "127.0.0.1"}, "ws://0x7f000001/", None, None),
        ({"all_proxy": "http://a", "no_proxy": "127.1"}, "ws://127.1/", None, None),
        ({"all_proxy": "http://a", "no_proxy": "10.0.0.0/8"}, "ws://127.1/", "http", "a"),
        ({"all_proxy": "http://a", "no_proxy": "[::1]:81"}, "ws://[::1]/", "http", "a"),
        ({"all_proxy": "http://a", "no_proxy": "[::1]:81"}, "ws://[::1]:81/", None, None),
        ({"ALL_PROXY": "socks://s:1080/"}, "wss://x/", "socks5h", "s"),
        ({"socks_proxy": "HTTP://k"}, "wss://x/", "socks5h", "k"),
        ({"https_proxy": " "}, "wss://x/", None, None),
        ({}, "ws://x/", None, None),
    ],
)
def test_which_proxy_the_environment_means(
    environment: dict[str, str],
    uri: str,
    scheme: str | None,
    host: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy(True, parse_uri(uri))
    assert (proxy and proxy.scheme, proxy and proxy.host) == (scheme, host)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"ALL_PROXY": "gopher://user:SECRET@h"}, "the environment variable ALL_PROXY: the URI of"),
        ({"Https_Proxy": "http://user:SECRET@"}, "the environment variable Https_Proxy: "),
        ({"WSS_PROXY": "http://h", "wss_proxy": "http://h/SECRET"}, "variable wss_proxy: "),
    ],
)
def test_a_variable_that_names_no_proxy_is_named(
    environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(creche.InvalidProxy, match=named) as caught:
        find_proxy(True, parse_uri("wss://x/"))
    assert "SECRET" not in str(caught.value)


def test_without_variables_the_systems_settings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.client.proxies.getproxies", lambda: {"https": "http://h/path"})
    with pytest.raises(creche.InvalidProxy, match=r"^the system's settings of proxies: the URI"):
        find_proxy(True, parse_uri("wss://x/"))
    monkeypatch.setattr("creche.client.proxies.proxy_bypass", lambda host: host == "x:443")
    assert find_proxy(True, parse_uri("wss://x/")) is None


async def test_socks_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.setenv("socks_proxy", "socks5://127.0.0.1")
    with pytest.raises(creche.ProxyError, match=r"pip install creche\[proxy\]"):
        async with creche.connect("ws://localhost/"):
            pass


async def test_a_bad_proxy_is_told_before_anything_happens() -> None:
    with pytest.raises(creche.InvalidProxy, match="must begin with"):
        async with creche.connect("ws://localhost/", proxy="gopher://proxy.example"):
            pass
    with socket.socket() as sock, pytest.raises(ValueError, match="proxy: a connected socket"):
        async with creche.connect("ws://localhost/", proxy="http://proxy.example", sock=sock):
            pass
    with pytest.raises(TypeError, match="proxy must be str or bool, not int"):
        async with creche.connect("ws://localhost/", proxy=8080):  # type: ignore[arg-type]
            pass


async def test_the_local_address_is_that_towards_the_proxy(open_proxy: int) -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        for scheme in ("http", "socks5"):
            async with creche.connect(
                server.url, proxy=f"{scheme}://127.0.0.1:{open_proxy}", local_address="127.0.0.9"
            ) as ws:
                assert ws.extra(SocketAttribute.local_address)[0] == "127.0.0.9"
