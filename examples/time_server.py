"""A server that tells a browser page the time, at random intervals.

python examples/time_server.py    # then open http://localhost:8765
"""

from __future__ import annotations

import random
from datetime import UTC, datetime

import anyio

import creche
import program


async def tell_time(ws: creche.WebSocket) -> None:
    while True:
        await ws.send(datetime.now(UTC).isoformat(timespec="milliseconds"))
        await anyio.sleep(random.random() * 3)


async def handler(ws: creche.WebSocket) -> None:
    # discard notices at once that the browser has gone, and ends tell_time, too.
    await ws.run(tell_time, creche.discard)


async def main(port: int) -> None:
    hook = program.page("time.html")
    async with creche.serving(handler, "localhost", port, process_request=hook) as server:
        print("open", server.url.replace("ws", "http", 1), flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765)
