"""The tutorial's poll: it has a page."""

import json
from pathlib import Path

import anyio

import creche

PAGE = Path(__file__).with_name("poll.html")


class Poll:
    def __init__(self, *choices: str) -> None:
        self.votes = dict.fromkeys(choices, 0)
        self.watchers: set[creche.WebSocket] = set()

    def message(self) -> str:
        return json.dumps(self.votes)

    def tell_all(self) -> None:
        creche.broadcast(self.watchers, self.message())

    async def handler(self, ws: creche.WebSocket) -> None:
        await ws.send(self.message())
        self.watchers.add(ws)
        try:
            async for choice in ws:
                if choice not in self.votes:
                    await ws.aclose(1008, "no such choice")
                    return
                self.votes[str(choice)] += 1
                self.tell_all()
        finally:
            self.watchers.discard(ws)


def process_request(request: creche.Request) -> creche.Response | None:
    if request.path == "/ws":
        return None  # go on with the opening handshake
    if request.path == "/":
        return creche.Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE.read_bytes())
    return creche.Response(404, body="There is / and /ws.\n")


async def main() -> None:
    poll = Poll("coffee", "tea")
    await creche.serve(poll.handler, "localhost", 8765, process_request=process_request)


if __name__ == "__main__":
    anyio.run(main)
