"""`creche serve`: a server to try clients with."""

from __future__ import annotations

import argparse
import ssl
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import anyio

import creche
from creche.cli.arguments import Command, UsageError, add_backend, port
from creche.cli.console import say
from creche.handshake.addresses import check_listening

# So many of those who come and go in a second have a line of their own.
_MOST_TOLD = 10
_SUMMED_UP_EVERY = 1.0

# Where --tls is said without a file.
MADE = ""


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="run an echo server",
        description="Send back each message to whoever has sent it, until Ctrl-C or SIGTERM.",
    )
    parser.add_argument("--host", default="localhost", help="where to listen (default: localhost)")
    parser.add_argument("--port", type=port, default=8765, help="the port (default: 8765)")
    parser.add_argument(
        "--broadcast", action="store_true", help="send each message to all the other clients"
    )
    parser.add_argument(
        "--tls",
        nargs="?",
        const=MADE,
        metavar="PEM",
        help="use TLS, with the certificate and key in this file, or one made for this run",
    )
    add_backend(parser)
    parser.set_defaults(prepare=prepare)


def prepare(given: argparse.Namespace) -> Command:
    try:
        check_listening(given.host, given.port)
    except ValueError as exc:
        raise UsageError(f"--{exc}") from None
    if given.tls is None:
        return partial(run, given, None)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if given.tls == MADE:
        return partial(run, given, context, _make_certificate(context))
    try:
        context.load_cert_chain(given.tls)
    except OSError as exc:
        raise UsageError(f"--tls {given.tls}: {exc}") from None
    return partial(run, given, context)


def _make_certificate(context: ssl.SSLContext) -> bytes:
    """Make one for localhost; returns the authority that a client must trust, as PEM."""
    try:
        import trustme
    except ImportError:
        raise UsageError(
            "--tls makes a certificate with trustme: pip install 'creche[cli]', or name a file"
        ) from None
    ca = trustme.CA()
    ca.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return ca.cert_pem.bytes()


class Comings:
    """Tells who comes and goes: some of them in each second, and of the others how many."""

    def __init__(self) -> None:
        self._told = 0
        self._untold = {"+": 0, "-": 0}

    def note(self, sign: str, client: str) -> None:
        """Somebody has come (+), or gone (-)."""
        if self._told < _MOST_TOLD:
            self._told += 1
            say(f"{sign} {client}")
        else:
            self._untold[sign] += 1

    def sum_up(self) -> None:
        """Another second begins."""
        self._told = 0
        for sign, count in self._untold.items():
            if count:
                say(f"{sign} {count} more")
                self._untold[sign] = 0


async def run(
    given: argparse.Namespace, context: ssl.SSLContext | None, ca: bytes | None = None
) -> None:
    log = Comings()

    async def handler(ws: creche.WebSocket) -> None:
        address = ws.remote_address
        client = f"{address[0]} port {address[1]}"
        log.note("+", client)
        try:
            async for message in ws:
                if given.broadcast:
                    creche.broadcast(server.connections - {ws}, message)
                else:
                    await ws.send(message)
        finally:
            log.note("-", client)

    with tempfile.TemporaryDirectory() as directory:
        async with creche.serving(
            handler, given.host, given.port, ssl=context, max_size=None
        ) as server:
            advice = ""
            if ca is not None:
                path = Path(directory) / "ca.pem"
                path.write_bytes(ca)
                advice = f" --ca {path}"
            say(f"listening at {server.url}")
            say(f"try: creche connect {server.url}{advice}")
            while True:
                await anyio.sleep(_SUMMED_UP_EVERY)
                log.sum_up()
