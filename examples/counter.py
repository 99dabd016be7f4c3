"""A counter that is kept in step in all browsers that show it.

python examples/counter.py    # then open http://localhost:8765, twice
"""

from __future__ import annotations

import json

import anyio

import creche
import program


class Counter:
    """A value, and everybody who watches it."""

    def __init__(self) -> None:
        self.value = 0
        self.users: set[creche.WebSocket] = set()

    def tell_all(self, **event: object) -> None:
        creche.broadcast(self.users, json.dumps(event))

    async def handler(self, ws: creche.WebSocket) -> None:
        self.users.add(ws)
        try:
            await ws.send(json.dumps({"value": self.value}))
            self.tell_all(users=len(self.users))
            async for message in ws:
                self.value += {"plus": 1, "minus": -1}[str(message)]
                self.tell_all(value=self.value)
        finally:
            self.users.discard(ws)
            self.tell_all(users=len(self.users))


async def main(port: int) -> None:
    counter = Counter()
    hook = program.page("counter.html")
    async with creche.serving(counter.handler, "localhost", port, process_request=hook) as server:
        print("open", server.url.replace("ws", "http", 1), flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765)
