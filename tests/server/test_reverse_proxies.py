"""A server behind nginx and HAProxy, as the documentation configures them; skipped without them."""

from __future__ import annotations

from pathlib import Path

import pytest

import creche
from reverse_proxies import REVERSE_PROXIES, find_reverse_proxy, reverse_proxy


@pytest.mark.anyio
@pytest.mark.parametrize("name", REVERSE_PROXIES)
async def test_behind_nginx_and_haproxy_as_they_are_configured_in_the_documentation(
    name: str, tmp_path: Path
) -> None:
    if find_reverse_proxy(name) is None:
        pytest.skip(f"{name} is not installed")

    async def handler(ws: creche.WebSocket) -> None:
        await ws.send(str(ws.client_address))
        async for message in ws:
            await ws.send(message)

    async with creche.serving(
        handler, "127.0.0.1", hosts=["app.example"], trusted_proxies=["127.0.0.1"]
    ) as server:
        with reverse_proxy(name, tmp_path, server.addresses[0][1]) as port:
            async with creche.connect(
                "ws://app.example/ws",
                host="127.0.0.1",
                port=port,
                local_address="127.0.0.7",
                origin="http://app.example",
                additional_headers={"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"},
            ) as ws:
                assert await ws.receive() == "127.0.0.7"
                assert 0 < await ws.ping() < 10
                for message in ("x", b"y" * 300_000):
                    await ws.send(message)
                    assert await ws.receive() == message
            with pytest.raises(creche.InvalidStatus) as caught:
                async with creche.connect(
                    "ws://app.example/ws", host="127.0.0.1", port=port, origin="http://evil.example"
                ):
                    pass
            assert caught.value.response.status == 403
