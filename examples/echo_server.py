"""An echo server that ends cleanly on Ctrl-C and SIGTERM.

python examples/echo_server.py [--port 8765] [--backend trio]
"""

from __future__ import annotations

import argparse
import signal

import anyio

import creche


async def echo(ws: creche.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    async with creche.serving(echo, "localhost", port) as server:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            print(f"listening at {server.url}", flush=True)
            async for _ in signals:
                break
    print("stopped")  # every connection was closed with 1001


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--backend", default="asyncio")
    arguments = parser.parse_args()
    anyio.run(main, arguments.port, backend=arguments.backend)
