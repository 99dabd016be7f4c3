"""Every public coroutine, cancelled at every suspension: see tests/sweep.py."""

from __future__ import annotations

import ssl
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import creche
import sweep
from creche.protocol.frames import TEXT
from sweep import SCENARIOS, TRANSPORTS, Swept

pytestmark = pytest.mark.anyio

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # anyio's TLS listener, of its clients
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_whatever_is_cancelled_wherever_nothing_is_torn_lost_or_left(
    transport: str, tls: Contexts, anyio_backend_name: str
) -> None:
    async with sweep.open_world(transport, tls) as world:
        for name, scenario in SCENARIOS.items():
            if transport not in scenario.transports:
                continue
            for peer in scenario.peers:
                for how in sweep.ways(anyio_backend_name):
                    points = await sweep.sweep(world, name, peer, how)
                    print(f"{transport} {name}: {peer} {how} {points}")
                    assert points > 0 or peer != "quick"


# The sweep itself: what it is there for is found.


async def torn_send(ws: creche.WebSocket, message: Any) -> None:
    """Half of a frame, a wait, and the other half."""
    link = ws._link
    frame = bytearray()
    half = len(link.transport.outbox)
    link.connection.send_message(TEXT, message.encode())
    frame[:] = link.transport.outbox[half:]
    del link.transport.outbox[half:]
    link.transport.outbox += frame[:3]
    link.commit()
    await checkpoint()
    link.transport.outbox += frame[3:]
    link.commit()


async def uncommitted_send(ws: creche.WebSocket, message: Any) -> None:
    """A wait after the commit: cancelled there, the message has been sent all the same."""
    link = ws._link
    link.connection.send_message(TEXT, message.encode())
    link.commit()
    await checkpoint()


_receive = creche.WebSocket.receive


async def lost_receive(ws: creche.WebSocket) -> str | bytes:
    """A wait between taking a message and returning it."""
    message = await _receive(ws)
    await checkpoint()
    return message


@pytest.mark.parametrize(
    ("method", "fault", "scenario", "found"),
    [
        ("send", torn_send, "send, small", "got"),  # a frame that it cannot read
        ("send", uncommitted_send, "send, small", "0 sent|sent, . received"),
        ("receive", lost_receive, "receive", "it did not end"),
        ("aclose", None, "aclose", "tasks and descriptors left"),
        ("run", None, "run, an error", "a user's error became"),
    ],
)
async def test_the_sweep_finds_a_planted_fault(
    method: str,
    fault: Any,
    scenario: str,
    found: str,
    tls: Contexts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweep.BOUND", 2)
    async with anyio.create_task_group() as leaks:
        if method == "aclose":

            async def leaking_aclose(ws: creche.WebSocket, *_: Any) -> None:
                try:
                    await type(ws._link).aclose(ws._link, creche.Close(1000))
                except BaseException:
                    leaks.start_soon(anyio.sleep_forever)
                    raise

            fault = leaking_aclose
        elif method == "run":

            async def swallowing_run(ws: creche.WebSocket, *handlers: Any) -> None:
                try:
                    await original(ws, *handlers)
                except ExceptionGroup:
                    await checkpoint()
                    raise ValueError("something else") from None

            original = creche.WebSocket.run
            fault = swallowing_run
        monkeypatch.setattr(creche.WebSocket, method, fault)
        async with sweep.open_world("memory", tls) as world:
            with pytest.raises(Swept, match=found):
                await sweep.sweep(world, scenario, "quick", "scope")
        leaks.cancel_scope.cancel()
