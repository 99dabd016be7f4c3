"""A server that is told a name and answers with a greeting.

python examples/hello_server.py
"""

from __future__ import annotations

import anyio

import creche
import program


async def hello(ws: creche.WebSocket) -> None:
    name = str(await ws.receive())
    print("<", name, flush=True)
    greeting = f"Hello {name}!"
    await ws.send(greeting)
    print(">", greeting, flush=True)
    # Returning closes the connection with 1000.


async def main(port: int) -> None:
    async with creche.serving(hello, "localhost", port) as server:
        print("listening at", server.url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765)
