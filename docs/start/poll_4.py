"""The tutorial's poll: it closes by itself, is told how long, and ends on a signal."""

import argparse
import json
import signal
from pathlib import Path

import anyio

import creche

PAGE = Path(__file__).with_name("poll.html")


class Poll:
    def __init__(self, *choices: str) -> None:
        self.votes = dict.fromkeys(choices, 0)
        self.watchers: set[creche.WebSocket] = set()
        self.open = True

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
                if self.open:
                    self.votes[str(choice)] += 1
                    self.tell_all()
        finally:
            self.watchers.discard(ws)

    async def close_after(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self.open = False
        self.tell_all()


def process_request(request: creche.Request) -> creche.Response | None:
    if request.path == "/ws":
        return None  # go on with the opening handshake
    if request.path == "/health":
        return creche.Response(200, body="healthy\n")
    if request.path == "/":
        return creche.Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE.read_bytes())
    return creche.Response(404, body="There is / and /ws.\n")


async def main(host: str, port: int, seconds: float) -> None:
    poll = Poll("coffee", "tea")
    async with (
        anyio.create_task_group() as tg,
        creche.serving(poll.handler, host, port, process_request=process_request) as server,
    ):
        tg.start_soon(poll.close_after, seconds)
        print("open", server.url.replace("ws", "http", 1), flush=True)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)
        await server.shutdown(grace=5)
        tg.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--backend", default="asyncio")
    arguments = parser.parse_args()
    anyio.run(main, arguments.host, arguments.port, arguments.seconds, backend=arguments.backend)
