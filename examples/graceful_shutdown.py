"""A server for a process manager: systemd, a container, or another.

It says when it is ready and when it stops (sd_notify), takes a socket that it is handed
(LISTEN_FDS), answers health checks, and on SIGTERM lets its handlers finish what they are at.

python examples/graceful_shutdown.py    # then open http://localhost:8765/health
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
from collections.abc import AsyncIterator

import anyio

import creche

GRACE = 1.5  # seconds; less than the process manager waits before it kills


async def work(ws: creche.WebSocket) -> None:
    async for job in ws:
        await anyio.sleep(0.2)  # it is finished, whatever happens
        print("done:", job, flush=True)
        await ws.send(f"done: {job!s}")


def health(request: creche.Request) -> creche.Response | None:
    if request.path == "/health":
        return creche.Response(200, body="healthy\n")
    return None


def notify(state: str) -> None:
    """Tell systemd, if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + address[1:] if address[0] == "@" else address)
            sock.sendall(state.encode())


def handed_sockets() -> list[socket.socket] | None:
    """The sockets of a systemd .socket unit; None without one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    return [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]


async def main(port: int) -> None:
    sockets = handed_sockets()
    where = (None, 0) if sockets else ("localhost", port)
    async with creche.serving(work, *where, sockets=sockets, process_request=health) as server:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            notify("READY=1")
            print("listening at", server.url, flush=True)
            await anext(signals)
            notify("STOPPING=1")
            async with anyio.create_task_group() as tg:
                tg.start_soon(cancel_at_next, signals, tg.cancel_scope)
                await server.shutdown(grace=GRACE)  # every client is told 1001 at once
                tg.cancel_scope.cancel()
    print("stopped", flush=True)


async def cancel_at_next(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    """A second signal ends the grace."""
    await anext(signals)
    scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    options = parser.parse_args()
    anyio.run(main, options.port, backend=options.backend)
