"""What all tests share: the backends, and certificates made for the run."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import sniffio

from creche.connection.link import Link
from creche.protocol import COMPILED
from support import BACKENDS, make_tls

# anyio.run() notes for sniffio which library runs. Under asyncio.run(), where many applications
# live, it has to be found out, which callbacks of the event loop cannot do, since they run in no
# task. So that is how all tests on asyncio run: what anyio notes is put where nobody reads it.
sniffio.current_async_library_cvar = ContextVar("nobody reads this", default=None)


# The tests are their own network: no proxy of the machine's.
for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[variable]


@pytest.fixture(params=BACKENDS)
def backend_name(request: pytest.FixtureRequest) -> Any:
    """The key of a backend in support.BACKENDS."""
    return request.param


@pytest.fixture
def anyio_backend(backend_name: str) -> tuple[str, dict[str, Any]]:
    settings = BACKENDS[backend_name]
    return settings["backend"], settings.get("backend_options", {})


@pytest.fixture(scope="session")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    return make_tls()


@pytest.fixture
def server_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> ssl.SSLContext:
    return tls[0]


@pytest.fixture
def client_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> ssl.SSLContext:
    return tls[1]


@pytest.fixture(autouse=True)
def overwritten_read_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overwrite the buffer that sockets are read into after each parse.

    All connections of an event loop share it: what kept a view of it would show another's bytes.
    """
    if COMPILED:
        return  # an extension's methods cannot be replaced; its source is the same
    receive = Link.data_received

    def receive_and_overwrite(link: Link, data: bytearray, size: int) -> None:
        receive(link, data, size)
        data[:size] = b"\xa5" * size

    monkeypatch.setattr(Link, "data_received", receive_and_overwrite)


@pytest.fixture
def unix_path() -> Iterator[Path]:
    # pytest's own directories have long names, and that of a socket must be short.
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "creche.sock"
