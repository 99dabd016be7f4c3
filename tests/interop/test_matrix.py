"""creche and its peers, each role against each: `nox -s interop` installs them.

A peer is a process of its own: peer.py for Python, peer.js for Node and for Chromium, or a reverse
proxy between two ends of creche. What cannot be installed is skipped, and listed.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import pytest
import trustme

import creche
from interop.peer import LARGE, LIBRARIES, MESSAGES, PIECES, SCENARIOS, SUBPROTOCOL
from reverse_proxies import REVERSE_PROXIES, find_reverse_proxy, reverse_proxy

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
NODE, CHROMIUM = "Node's ws", "Chromium"
CLIENTS = (*LIBRARIES, NODE, CHROMIUM)
SERVERS = tuple(name for name in CLIENTS if name not in ("websocket-client", CHROMIUM))

# What a peer cannot do. aiohttp and Chromium receive fragments, but send none.
CANNOT = {
    ("websocket-client", "compression"): "websocket-client has no compression",
    (CHROMIUM, "ping"): "a browser sends no pings; those of ours it answers, in each scenario",
}


@cache
def why_missing(peer: str) -> str | None:
    """Why a peer cannot be asked, if it cannot."""
    if peer in LIBRARIES:
        try:
            importlib.metadata.version(peer)
        except importlib.metadata.PackageNotFoundError:
            return f"{peer} is not installed"
    elif peer == NODE:
        if shutil.which("node") is None:
            return "Node is not installed"
        if subprocess.run(["node", "-e", "require('ws')"], capture_output=True).returncode:
            return "Node's ws is not installed"
    elif peer == CHROMIUM:
        if shutil.which("chromium") is None:
            return "Chromium is not installed"
    elif find_reverse_proxy(peer) is None:
        return f"{peer} is not installed"
    return None


def check(peer: str, scenario: str) -> None:
    """Skip what cannot be."""
    reason = why_missing(peer) or CANNOT.get((peer, scenario))
    if reason is not None:
        pytest.skip(reason)


@dataclass
class Certificates:
    """Files in the PEM format: the authority's certificate, and a key with its chain."""

    ca: Path
    chain: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    made = Certificates(directory / "ca.pem", directory / "chain.pem")
    ca.cert_pem.write_to_path(str(made.ca))
    ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(made.chain)
    )
    return made


# Our server


class Site:
    """A server's handler, which notes how connections end, and the page for a browser."""

    def __init__(self) -> None:
        self.ended: list[tuple[int | None, str | None]] = []
        self.result = ""
        self.told = anyio.Event()

    def process_request(self, request: creche.Request) -> creche.Response | None:
        path, _, query = request.path.partition("?")
        headers = {"Content-Type": "text/html; charset=utf-8"}
        match path:
            case "/page":
                return creche.Response(200, headers, "<script src=/peer.js></script>")
            case "/peer.js":
                headers["Content-Type"] = "text/javascript; charset=utf-8"
                return creche.Response(200, headers, (HERE / "peer.js").read_bytes())
            case "/result":
                self.result = unquote(query)
                self.told.set()
                return creche.Response(204)
            case _ if not path.startswith("/ws/"):
                return creche.Response(404)
        return None

    async def handler(self, ws: creche.WebSocket) -> None:
        scenario = ws.request.path.rpartition("/")[2]
        try:
            await self.answer(ws, scenario)
        except creche.ConnectionClosed:
            pass
        finally:
            self.ended.append((ws.close_code, ws.close_reason))

    async def answer(self, ws: creche.WebSocket, scenario: str) -> None:
        if scenario in ("messages", "large", "compression", "TLS"):
            await ws.ping()
        async for message in ws:
            match scenario:
                case "fragments":
                    assert isinstance(message, str)
                    async with ws.send_stream(text=True) as stream:
                        for piece in (message[:1], message[1:], ""):
                            await stream.send(piece)
                case "ping":
                    await ws.ping()
                    await ws.send("answered")
                case "closed":
                    await ws.aclose(4001, "bye é")
                case _:
                    await ws.send(message)


@asynccontextmanager
async def our_server(
    site: Site, certificates: Certificates | None, **options: Any
) -> AsyncIterator[creche.Server]:
    async with creche.serving(
        site.handler,
        "127.0.0.1",
        ssl=certificates.server_context() if certificates else None,
        subprotocols=[SUBPROTOCOL],
        process_request=site.process_request,
        **options,
    ) as server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("peer", CLIENTS)
async def test_their_client_and_our_server(
    peer: str,
    scenario: str,
    certificates: Certificates,
    tmp_path: Path,
    record_property: Any,
) -> None:
    record_property("cell", (f"{peer} as the client", scenario))
    check(peer, scenario)
    site = Site()
    tls = certificates if scenario == "TLS" else None
    with anyio.fail_after(40):
        async with our_server(site, tls) as server:
            if peer == CHROMIUM:
                await browse(site, server, scenario, tls, tmp_path)
            else:
                await run_client(peer, scenario, f"{localhost(server)}ws/{scenario}", tls)
    if scenario == "close":
        assert site.ended == [(4000, "done é")]
    else:
        assert len(site.ended) == 1


def localhost(server: creche.Server) -> str:
    return server.url.replace("127.0.0.1", "localhost")


async def run_client(peer: str, scenario: str, url: str, tls: Certificates | None) -> None:
    environment = os.environ | ({"NODE_EXTRA_CA_CERTS": str(tls.ca)} if tls else {})
    if peer == NODE:
        command = ["node", str(HERE / "peer.js"), "client", scenario, url]
    else:
        command = [sys.executable, str(HERE / "peer.py"), "client", peer, scenario, url]
        if tls:
            command.append(str(tls.ca))
    ended = await anyio.run_process(command, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr.decode()


async def browse(
    site: Site, server: creche.Server, scenario: str, tls: Certificates | None, home: Path
) -> None:
    """Open the page in a browser, with a profile of its own, until it tells the result."""
    if tls:
        await trust(tls.ca, home)
    url = f"{localhost(server).replace('ws', 'http', 1)}page?{scenario}"
    command = [
        *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-dev-shm-usage", f"--user-data-dir={home / 'profile'}", url),
    ]
    async with await anyio.open_process(
        command,
        env=os.environ | {"HOME": str(home), "XDG_DATA_HOME": str(home / ".local/share")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        await site.told.wait()
        process.terminate()
    assert site.result == "ok"


async def trust(ca: Path, home: Path) -> None:
    """Put an authority into the databases that browsers on Linux look in."""
    certutil = shutil.which("certutil")
    if certutil is None:
        pytest.skip("certutil is not installed (Debian: libnss3-tools)")
    for directory in (home / ".pki" / "nssdb", home / ".local" / "share" / "pki" / "nssdb"):
        directory.mkdir(parents=True)
        database = f"sql:{directory}"
        await anyio.run_process([certutil, "-N", "-d", database, "--empty-password"])
        add = ["-A", "-n", "creche test", "-t", "C,,", "-i", str(ca)]
        await anyio.run_process([certutil, "-d", database, *add])


# Our client


@contextmanager
def their_server(peer: str, tls: Certificates | None) -> Iterator[subprocess.Popen[str]]:
    command = (
        ["node", str(HERE / "peer.js"), "server"]
        if peer == NODE
        else [sys.executable, str(HERE / "peer.py"), "server", peer]
    )
    if tls:
        command.append(str(tls.chain))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("peer", SERVERS)
async def test_our_client_and_their_server(
    peer: str, scenario: str, certificates: Certificates, record_property: Any
) -> None:
    record_property("cell", (f"{peer} as the server", scenario))
    check(peer, scenario)
    tls = certificates if scenario == "TLS" else None
    with anyio.fail_after(40), their_server(peer, tls) as process:
        port = int(await next_line(process))
        scheme = "wss" if tls else "ws"
        await talk(f"{scheme}://localhost:{port}/ws/{scenario}", scenario, tls)
        if scenario == "close":
            assert await next_line(process) == "closed 4000 done é\n"


async def next_line(process: subprocess.Popen[str]) -> str:
    """What a process prints next; whoever waits can be cancelled."""
    assert process.stdout is not None
    return await anyio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)


async def talk(url: str, scenario: str, tls: Certificates | None, **options: Any) -> None:
    """The scenario, as our client."""
    async with creche.connect(
        url,
        ssl=tls.client_context() if tls else None,
        subprotocols=["other", SUBPROTOCOL] if scenario == "subprotocol" else (),
        **options,
    ) as ws:
        match scenario:
            case "messages" | "large" | "compression" | "TLS":
                if scenario == "compression":
                    assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
                for message in {"large": LARGE, "compression": LARGE}.get(scenario, MESSAGES):
                    await ws.send(message)
                    assert await ws.receive() == message
            case "fragments":
                async with ws.send_stream(text=True) as stream:
                    for piece in PIECES:
                        await stream.send(piece)
                assert await ws.receive() == "".join(PIECES)
            case "subprotocol":
                assert ws.subprotocol == SUBPROTOCOL
            case "ping":
                assert await ws.ping() > 0
                await ws.send("ping me")
                assert await ws.receive() == "answered"
            case "close":
                await ws.aclose(4000, "done é")
            case "closed":
                await ws.send("close")
                with pytest.raises(creche.ConnectionClosed):
                    await ws.receive()
                assert (ws.close_code, ws.close_reason) == (4001, "bye é")
            case _:
                raise AssertionError(scenario)


# Both ends ours, with another's program between


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "TLS"])
@pytest.mark.parametrize("name", REVERSE_PROXIES)
async def test_through_reverse_proxies(
    name: str, scenario: str, tmp_path: Path, record_property: Any
) -> None:
    record_property("cell", (f"{name} between", scenario))
    check(name, scenario)
    site = Site()
    with anyio.fail_after(40):
        async with our_server(site, None, hosts=["app.example"]) as server:
            with reverse_proxy(name, tmp_path, server.addresses[0][1]) as port:
                url = f"ws://app.example/ws/{scenario}"
                await talk(url, scenario, None, host="127.0.0.1", port=port)
    if scenario == "close":
        assert site.ended == [(4000, "done é")]
