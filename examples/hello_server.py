"""A server that is told a name and answers with a greeting.

python examples/hello_server.py
"""

from __future__ import annotations

import creche


async def hello(ws: creche.WebSocket) -> None:
    name = str(await ws.receive())
    print("<", name, flush=True)
    greeting = f"Hello {name}!"
    await ws.send(greeting)
    print(">", greeting, flush=True)
    # Returning closes the connection with 1000.


if __name__ == "__main__":
    creche.run(hello, "localhost", 8765)
