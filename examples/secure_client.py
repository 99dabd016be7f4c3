"""A client over TLS, of a server whose certificate the system need not trust.

python examples/secure_server.py
python examples/secure_client.py --ca CA.PEM    # the server says which
"""

from __future__ import annotations

import ssl

import creche
import program


async def main(uri: str, name: str, ca: str) -> None:
    # With a certificate that the system trusts, creche.connect(uri) is all that it takes.
    context = ssl.create_default_context(cafile=ca or None)
    async with creche.connect(uri, ssl=context) as ws:
        await ws.send(name)
        print(">", name)
        print("<", await ws.receive())


if __name__ == "__main__":
    program.run(main, uri="wss://localhost:8765", name="World", ca="")
