"""What all tests share: the backends, and certificates made for the run."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from creche.link import Link

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
try:
    import uvloop  # noqa: F401
except ImportError:
    pass  # not on Windows
else:
    BACKENDS.insert(1, pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@pytest.fixture(autouse=True)
def overwritten_read_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overwrite the buffer that sockets are read into after each parse.

    All connections of an event loop share it: what kept a view of it would show another's bytes.
    """
    receive = Link.data_received

    def receive_and_overwrite(link: Link, data: memoryview) -> None:
        receive(link, data)
        if not data.readonly:
            data[:] = b"\xa5" * len(data)

    monkeypatch.setattr(Link, "data_received", receive_and_overwrite)


@pytest.fixture
def unix_path() -> Iterator[Path]:
    # pytest's own directories have long names, and that of a socket must be short.
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "creche.sock"
