"""A proxy: each client is connected to another WebSocket server.

python examples/echo_server.py
python examples/proxy.py ws://localhost:8765
python examples/echo_client.py ws://localhost:8766
"""

from __future__ import annotations

import sys
from functools import partial

import anyio

import creche


async def pass_on(source: creche.WebSocket, target: creche.WebSocket) -> None:
    """Send on what comes, and how it ends. Whoever is slow is waited for: nothing piles up."""
    try:
        async for message in source:
            await target.send(message)
    except creche.ConnectionClosed:
        pass  # the close code tells
    if source.close_code is None:
        return  # it was the target that ended
    # 1005 and 1006 say that no code came; they cannot be sent (RFC 6455 7.4.1).
    code = {1005: 1000, 1006: 1011}.get(source.close_code, source.close_code)
    await target.aclose(code, source.close_reason or "" if code == source.close_code else "")


async def proxy(downstream: creche.WebSocket, uri: str) -> None:
    try:
        async with creche.connect(uri) as upstream, anyio.create_task_group() as tg:
            tg.start_soon(pass_on, downstream, upstream)
            tg.start_soon(pass_on, upstream, downstream)
    except (OSError, creche.HandshakeError) as exc:
        downstream.logger.warning("%s cannot be reached: %s", uri, exc)
        await downstream.aclose(1011, "the server behind this proxy cannot be reached")


if __name__ == "__main__":
    server = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:8765"
    creche.run(partial(proxy, uri=server), "localhost", 8766)
