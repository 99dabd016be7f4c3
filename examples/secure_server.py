"""The greeting over TLS, with a certificate of your own or one that is made for this run.

python examples/secure_server.py
python examples/secure_server.py --certificate localhost.pem    # with its key
"""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

import anyio
import trustme

import creche
import program
from hello_server import hello


def make_certificate(context: ssl.SSLContext, ca_file: Path) -> None:
    """Make a certificate for localhost, and write down the authority that a client must trust."""
    ca = trustme.CA()
    ca.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    ca.cert_pem.write_to_path(str(ca_file))


async def main(port: int, certificate: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as directory:
        if certificate:
            context.load_cert_chain(certificate)
            trust = ""
        else:
            ca_file = Path(directory) / "ca.pem"
            make_certificate(context, ca_file)
            trust = f" --ca {ca_file}"
        async with creche.serving(hello, "localhost", port, ssl=context) as server:
            print("listening at", server.url, flush=True)
            print(f"python examples/secure_client.py --uri {server.url}{trust}", flush=True)
            await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765, certificate="")
