"""The tutorial's poll: it tells everybody."""

import json

import creche


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


if __name__ == "__main__":
    creche.run(Poll("coffee", "tea").handler, "localhost", 8765)
