"""A client that tells its name and is greeted.

python examples/hello_server.py
python examples/hello_client.py --name Ada
"""

from __future__ import annotations

import creche
import program


async def main(uri: str, name: str) -> None:
    async with creche.connect(uri) as ws:
        await ws.send(name)
        print(">", name)
        print("<", await ws.receive())
    # Here the connection is closed.


if __name__ == "__main__":
    program.run(main, uri="ws://localhost:8765", name="World")
