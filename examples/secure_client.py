"""A client over TLS, of a server whose certificate the system need not trust.

python examples/secure_server.py
python examples/secure_client.py CA.PEM    # the server says which
"""

from __future__ import annotations

import ssl
import sys

import anyio

import creche


async def main(ca: str | None = None, uri: str = "wss://localhost:8765") -> None:
    # With a certificate that the system trusts, creche.connect(uri) is all that it takes.
    context = ssl.create_default_context(cafile=ca)
    async with creche.connect(uri, ssl=context) as ws:
        await ws.send("World")
        print("> World")
        print("<", await ws.receive())


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
