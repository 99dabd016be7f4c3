"""A chat with rooms.

python examples/chat.py    # then open http://localhost:8765, twice
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import anyio

import creche

PAGE = Path(__file__).with_name("chat.html").read_text()


class Chat:
    """Rooms, and the names of those who are in them."""

    def __init__(self) -> None:
        self.rooms: defaultdict[str, dict[creche.WebSocket, str]] = defaultdict(dict)

    def tell(self, room: str, **event: object) -> None:
        creche.broadcast(self.rooms[room], json.dumps(event), slow="close")

    async def handler(self, ws: creche.WebSocket) -> None:
        try:
            with anyio.fail_after(60):
                hello = json.loads(await ws.receive())
            name, room = str(hello["name"])[:40], str(hello["room"])[:40]
        except (ValueError, KeyError, TypeError, TimeoutError):
            await ws.aclose(1008, 'say: {"name": ..., "room": ...}')
            return
        members = self.rooms[room]
        members[ws] = name
        try:
            self.tell(room, members=sorted(members.values()))
            async for text in ws:
                self.tell(room, name=name, text=str(text)[:1000])
        finally:
            del members[ws]
            self.tell(room, members=sorted(members.values()))
            if not members:
                del self.rooms[room]


def page(request: creche.Request) -> creche.Response | None:
    """Answer "/" with the page; "/ws" goes on to the handler."""
    if request.path == "/ws":
        return None
    if request.path == "/":
        return creche.Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
    return creche.Response(404, body="There is / and /ws.\n")


if __name__ == "__main__":
    creche.run(Chat().handler, "localhost", 8765, process_request=page)
