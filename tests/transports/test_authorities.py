from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSAttribute

import creche
from creche.transports import authorities
from creche.transports.authorities import client_context, shared_context
from support import echo

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has connected to nobody yet."""
    monkeypatch.setattr(authorities, "_made", None)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads in which authorities were loaded."""
    threads: list[int] = []
    real = ssl.create_default_context

    def create_default_context() -> ssl.SSLContext:
        threads.append(threading.get_ident())
        return real()

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)
    return threads


class Authority:
    """One that the system trusts as long as its file is there, and a server that it vouches for."""

    def __init__(self, file: Path) -> None:
        ca = trustme.CA()
        self.pem = ca.cert_pem.bytes()
        self.server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost", "127.0.0.1").configure_cert(self.server_tls)
        self.file = file

    def trust(self) -> None:
        self.file.write_bytes(self.pem)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    authority = Authority(tmp_path / "ca.pem")
    authority.trust()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


@pytest.fixture
async def url(anyio_backend: Any, authority: Authority) -> AsyncIterator[str]:
    async with creche.serving(echo, "127.0.0.1", ssl=authority.server_tls) as server:
        yield server.url


def test_a_clients_context_verifies() -> None:
    context = client_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_the_authorities_are_loaded_once_for_a_process(url: str, loads: list[int]) -> None:
    contexts = set()
    for ssl_option in (None, True, None):
        async with creche.connect(url, ssl=ssl_option) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
            contexts.add(ws.extra(TLSAttribute.ssl_object).context)
    assert len(loads) == 1
    [context] = contexts
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_a_thread_loads_them_and_the_event_loop_goes_on(loads: list[int]) -> None:
    await shared_context()
    assert loads
    assert threading.get_ident() not in loads


async def test_those_who_connect_at_once_wait_for_the_same(loads: list[int]) -> None:
    contexts = set()

    async def get() -> None:
        contexts.add(await shared_context())

    async with anyio.create_task_group() as tg:
        for _ in range(20):
            tg.start_soon(get)
    assert len(loads) == len(contexts) == 1


def test_the_event_loops_of_a_process_share_them(loads: list[int]) -> None:
    contexts = set()

    def run() -> None:
        contexts.add(anyio.run(shared_context))

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == len(contexts) == 1


async def test_https_proxies_share_them(loads: list[int], authority: Authority) -> None:
    names = []
    authority.server_tls.sni_callback = lambda sock, name, context: names.append(name)
    async with creche.serving(echo, "127.0.0.1", ssl=authority.server_tls) as server:
        proxy = server.url.replace("wss", "https").replace("127.0.0.1", "localhost")
        for _ in range(2):
            with pytest.raises(creche.InvalidProxyStatus, match="400"):
                async with creche.connect("ws://app.example/", proxy=proxy):
                    pass
    assert names == ["localhost", "localhost"]
    assert len(loads) == 1


async def test_other_authorities_are_trusted_when_the_environment_names_them(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with creche.connect(url):
        pass
    other = Authority(tmp_path / "other.pem")
    other.trust()
    monkeypatch.setenv("SSL_CERT_FILE", str(other.file))
    with pytest.raises(ssl.SSLCertVerificationError):
        async with creche.connect(url):
            pass
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ssl.SSLCertVerificationError):
        async with creche.connect(url):
            pass


async def test_other_authorities_are_trusted_when_their_file_has_changed(
    url: str, authority: Authority
) -> None:
    async with creche.connect(url):
        pass
    Authority(authority.file).trust()
    with pytest.raises(ssl.SSLCertVerificationError):
        async with creche.connect(url):
            pass


async def test_what_a_path_names_may_be_gone_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing: Any = None
    gone = str(tmp_path / "gone")
    paths = ssl.get_default_verify_paths()._replace(cafile=gone, capath=missing)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    assert await shared_context() is await shared_context()


async def test_nobody_can_change_the_context_of_others(url: str) -> None:
    async with creche.connect(url) as ws:
        context = ws.extra(TLSAttribute.ssl_object).context
    for name, value in (
        ("check_hostname", False),
        ("verify_mode", ssl.CERT_NONE),
        ("options", 0),
        ("minimum_version", ssl.TLSVersion.TLSv1),
        ("keylog_filename", "/dev/null"),
    ):
        with pytest.raises(AttributeError, match="give one of your own as ssl"):
            setattr(context, name, value)
    calls: list[tuple[Any, Any]] = [
        (context.load_verify_locations, "x.pem"),
        (context.load_cert_chain, "x.pem"),
        (context.set_ciphers, "ALL"),
        (context.set_alpn_protocols, ["h2"]),
        (context.load_default_certs, ssl.Purpose.CLIENT_AUTH),
    ]
    for method, argument in calls:
        with pytest.raises(AttributeError, match="give one of your own as ssl"):
            method(argument)
    assert context.check_hostname


async def test_a_context_of_a_library_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        """Of another class, as libraries put it in the place of Python's."""

        def set_alpn_protocols(self, protocols: list[str]) -> None:
            self.protocols = protocols

    await shared_context()
    monkeypatch.setattr(ssl, "create_default_context", Context)
    context: Any = await shared_context()
    assert type(context) is Context
    assert context.protocols == ["http/1.1"]


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Loading takes until this is set."""
    event = threading.Event()
    real = ssl.create_default_context

    def create_default_context() -> ssl.SSLContext:
        assert event.wait(20)
        return real()

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)
    yield event
    event.set()


async def test_loading_counts_for_open_timeout_and_leaves_no_socket(
    released: threading.Event,
) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError, match=r"took over 0\.05 s"):
            async with creche.connect("wss://127.0.0.1:1/", open_timeout=0.05):
                pass
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(TimeoutError, match=r"took over 0\.05 s"):
            async with creche.connect("wss://127.0.0.1/", sock=ours, open_timeout=0.05):
                pass
        assert ours.fileno() == -1
    released.set()
    await shared_context()


def test_a_process_that_is_forked_while_a_thread_loads_them_loads_them_itself() -> None:
    with authorities._making:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # it would wait for a thread that it does not have
            context = authorities._make("the child's")
            os._exit(0 if context.check_hostname else 1)
        authorities._renew_lock()
    assert not authorities._making.locked()
    assert os.waitpid(child, 0)[1] == 0
