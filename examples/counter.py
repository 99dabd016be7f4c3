"""A counter that is kept in step in all browsers that show it.

python examples/counter.py    # then open http://localhost:8765, twice
"""

from __future__ import annotations

import json
from pathlib import Path

import creche

PAGE = Path(__file__).with_name("counter.html").read_text()


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


def page(request: creche.Request) -> creche.Response | None:
    """Answer "/" with the page; "/ws" goes on to the handler."""
    if request.path == "/ws":
        return None
    if request.path == "/":
        return creche.Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
    return creche.Response(404, body="There is / and /ws.\n")


if __name__ == "__main__":
    creche.run(Counter().handler, "localhost", 8765, process_request=page)
