"""A server process for test_shutdown.py: python shutdown_server.py BACKEND GRACE

It prints its port. A client's first message is its name; to a name that begins with "sending" it
sends numbers as long as it can. At the end of its input it shuts down and prints, as JSON, how
long that took, how long until the close frames were out, both without the time that other
processes kept it from running, and how many messages were committed.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import anyio

import creche
from support import BACKENDS, raise_descriptor_limit


def delay() -> float:
    """The seconds that this process has waited for a core, because others were busy."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


async def main(grace: float) -> None:
    committed: dict[str, int] = {}

    async def handler(ws: creche.WebSocket) -> None:
        name = str(await ws.receive())
        committed[name] = 0
        await ws.send("ready")

        async def produce(ws: creche.WebSocket) -> None:
            while True:
                await ws.send(f"{committed[name]} " + "x" * 1000)
                committed[name] += 1
                await anyio.sleep(0.25)

        if name.startswith("sending"):
            await ws.run(creche.discard, produce)
        else:
            await creche.discard(ws)

    out = 0.0
    async with creche.serving(handler, "127.0.0.1") as server:
        print(server.addresses[0][1], flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        links = [ws._link for ws in server.connections]
        start = time.monotonic()
        delayed = delay()

        async def watch() -> None:
            nonlocal out
            while not all(link.connection.sent for link in links):
                await anyio.sleep(0.001)
            out = time.monotonic() - start - (delay() - delayed)

        async with anyio.create_task_group() as tg:
            tg.start_soon(watch)
            await server.shutdown(grace=grace)
    print(
        json.dumps(
            {
                "connections": len(links),
                "seconds": time.monotonic() - start - (delay() - delayed),
                "close frames": out,
                "committed": committed,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    raise_descriptor_limit()
    anyio.run(main, float(sys.argv[2]), **BACKENDS[sys.argv[1]])
