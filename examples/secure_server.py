"""The greeting over TLS, with a certificate of your own or one that is made for this run.

python examples/secure_server.py
python examples/secure_server.py localhost.pem    # with its key
"""

from __future__ import annotations

import ssl
import sys
import tempfile
from pathlib import Path

import trustme

import creche


async def hello(ws: creche.WebSocket) -> None:
    await ws.send(f"Hello {await ws.receive()!s}!")


def make_certificate(context: ssl.SSLContext, ca_file: Path) -> None:
    """Make a certificate for localhost, and write down the authority that a client must trust."""
    ca = trustme.CA()
    ca.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    ca.cert_pem.write_to_path(str(ca_file))


def main(certificate: str | None = None) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as directory:
        if certificate is not None:
            context.load_cert_chain(certificate)
        else:
            ca_file = Path(directory) / "ca.pem"
            make_certificate(context, ca_file)
            print(f"python examples/secure_client.py {ca_file}", flush=True)
        creche.run(hello, "localhost", 8765, ssl=context)


if __name__ == "__main__":
    main(*sys.argv[1:])
