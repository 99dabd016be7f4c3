"""The tutorial's poll: it answers one client."""

import json

import creche


class Poll:
    def __init__(self, *choices: str) -> None:
        self.votes = dict.fromkeys(choices, 0)

    async def handler(self, ws: creche.WebSocket) -> None:
        async for choice in ws:
            self.votes[str(choice)] += 1
            await ws.send(json.dumps(self.votes))


if __name__ == "__main__":
    creche.run(Poll("coffee", "tea").handler, "localhost", 8765)
