"""A server that tells a browser page the time, at random intervals.

python examples/time_server.py    # then open http://localhost:8765
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import anyio

import creche

PAGE = Path(__file__).with_name("time.html").read_text()


async def tell_time(ws: creche.WebSocket) -> None:
    while True:
        await ws.send(datetime.now(UTC).isoformat(timespec="milliseconds"))
        await anyio.sleep(random.random() * 3)


async def handler(ws: creche.WebSocket) -> None:
    # discard notices at once that the browser has gone, and ends tell_time, too.
    await ws.run(tell_time, creche.discard)


def page(request: creche.Request) -> creche.Response | None:
    """Answer "/" with the page; "/ws" goes on to the handler."""
    if request.path == "/ws":
        return None
    if request.path == "/":
        return creche.Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
    return creche.Response(404, body="There is / and /ws.\n")


if __name__ == "__main__":
    creche.run(handler, "localhost", 8765, process_request=page)
