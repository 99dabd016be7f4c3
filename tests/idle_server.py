"""A server process for test_resources.py: python idle_server.py BACKEND

It prints its port. At the end of its input it shuts down and prints, as JSON, how many
connections were open, and how many tasks, descriptors and WebSockets are left.
"""

from __future__ import annotations

import gc
import json
import sys
import weakref

import anyio

import creche
from support import (
    BACKENDS,
    count_descriptors,
    count_tasks,
    echo,
    raise_descriptor_limit,
    raw_client,
)


async def main() -> None:
    left: list[weakref.ref[creche.WebSocket]] = []

    async def handler(ws: creche.WebSocket) -> None:
        left.append(weakref.ref(ws))
        await creche.discard(ws)

    # What an event loop and its threads open at the first use stays open.
    async with creche.serving(echo, "127.0.0.1") as warm_up, raw_client(warm_up.url):
        await anyio.to_thread.run_sync(len, "")
    gc.collect()
    gc.disable()
    tasks, descriptors = count_tasks(), count_descriptors()
    # The clients answer one after the other, and no ping: they have time.
    async with creche.serving(handler, "127.0.0.1", ping_timeout=None, close_timeout=100) as server:
        print(server.addresses[0][1], flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        open_connections = len(server.connections)
        await server.shutdown(grace=100)
    counts = {
        "open": open_connections,
        "tasks": count_tasks() - tasks,
        "descriptors": count_descriptors() - descriptors,
        "websockets": sum(ref() is not None for ref in left),
    }
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    raise_descriptor_limit()
    anyio.run(main, **BACKENDS[sys.argv[1]])
