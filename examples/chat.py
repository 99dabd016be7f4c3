"""A chat with rooms.

python examples/chat.py    # then open http://localhost:8765, twice
"""

from __future__ import annotations

import json
from collections import defaultdict

import anyio

import creche
import program


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


async def main(port: int) -> None:
    chat = Chat()
    hook = program.page("chat.html")
    async with creche.serving(chat.handler, "localhost", port, process_request=hook) as server:
        print("open", server.url.replace("ws", "http", 1), flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765)
