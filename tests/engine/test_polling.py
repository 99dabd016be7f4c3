from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from creche.engine.current import current_engine
from creche.engine.polling import Poller
from support import settle, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux has epoll"),
]


@pytest.fixture
def anyio_backend() -> str:
    """Elsewhere the event loop calls back by itself."""
    return "trio"


@asynccontextmanager
async def polling() -> AsyncIterator[Poller]:
    engine = current_engine()
    assert isinstance(engine.readiness, Poller)
    yield engine.readiness


@pytest.fixture
def ends() -> Any:
    """Two pairs of connected sockets."""
    sockets = [*socket.socketpair(), *socket.socketpair()]
    yield sockets
    for sock in sockets:
        sock.close()


async def test_each_is_called_back_when_it_is_ready_and_as_long_as_it_is(ends: Any) -> None:
    ours, theirs, other, _ = ends
    async with polling() as poller:
        called: list[object] = []

        def read() -> None:
            called.append(ours.recv(1))

        poller.add_reader(ours.fileno(), read)
        poller.add_reader(other.fileno(), lambda: called.append("other"))
        theirs.send(b"ab")
        await until(lambda: len(called) == 2)
        await settle()
        assert called == [b"a", b"b"]
        poller.remove_reader(ours.fileno())
        theirs.send(b"c")
        await settle()
        assert called == [b"a", b"b"]
        poller.remove_reader(other.fileno())


async def test_reading_and_writing_are_watched_apart(ends: Any) -> None:
    ours, theirs, _, _ = ends
    async with polling() as poller:
        called: list[str] = []

        def write() -> None:
            called.append("write")
            poller.remove_writer(ours.fileno())

        def read() -> None:
            called.append("read")
            ours.recv(1)

        poller.add_writer(ours.fileno(), write)
        poller.add_reader(ours.fileno(), read)
        await until(lambda: called)
        await settle()
        assert called == ["write"]
        theirs.send(b"x")
        await until(lambda: len(called) == 2)
        poller.add_writer(ours.fileno(), write)
        await until(lambda: len(called) == 3)
        poller.remove_reader(ours.fileno())
        assert called == ["write", "read", "write"]


async def test_what_the_kernel_refuses_changes_nothing(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:  # always ready, and not to be waited for
        descriptor = file.fileno()
        async with polling() as poller:
            for _ in range(2):
                with pytest.raises(PermissionError):
                    poller.add_reader(descriptor, lambda: None)
                with pytest.raises(PermissionError):
                    poller.add_writer(descriptor, lambda: None)
            ours, theirs = socket.socketpair()
            with theirs:
                poller.add_reader(ours.fileno(), lambda: None)
                descriptor = ours.detach()
                os.close(descriptor)
                with pytest.raises(OSError, match="Bad file descriptor"):
                    poller.add_writer(descriptor, lambda: None)
                with pytest.raises(OSError, match="Bad file descriptor"):
                    poller.add_reader(descriptor, lambda: None)


async def test_one_that_is_removed_by_another_is_not_called(ends: Any) -> None:
    ours, theirs, also_ours, also_theirs = ends
    async with polling() as poller:
        called = []

        def read(mine: socket.socket, another: socket.socket) -> None:
            called.append(mine)
            for sock in (mine, another):
                poller.remove_reader(sock.fileno())

        poller.add_reader(ours.fileno(), lambda: read(ours, also_ours))
        poller.add_reader(also_ours.fileno(), lambda: read(also_ours, ours))
        theirs.send(b"x")
        also_theirs.send(b"x")
        await until(lambda: called)
        await settle()
        assert len(called) == 1


async def test_a_callback_that_fails_is_logged_and_ends_nothing(
    ends: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs, other, others = ends
    async with polling() as poller:
        called = []

        def fail() -> None:
            ours.recv(1)
            raise ValueError("a mistake of ours")

        poller.add_reader(ours.fileno(), fail)
        poller.add_reader(other.fileno(), lambda: called.append(other.recv(1)))
        with caplog.at_level(logging.ERROR, "creche"):
            theirs.send(b"x")
            await until(lambda: caplog.records)
        others.send(b"x")
        await until(lambda: called)
        assert "please report it" in caplog.text
    poller.remove_reader(other.fileno())  # whoever comes late may still go


async def test_a_turn_is_bounded_and_nobody_is_left_out(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("creche.engine.polling.LONGEST_SHARE", 0)
    ours, theirs, other, others = ends
    async with polling() as poller:
        called: list[str] = []
        for sock, name in ((ours, "ours"), (other, "other")):
            poller.add_reader(sock.fileno(), lambda name=name: called.append(name))  # type: ignore[misc]
        theirs.send(b"x")
        others.send(b"x")
        await until(lambda: {"ours", "other"} <= set(called))
        for sock in (ours, other):
            poller.remove_reader(sock.fileno())


async def test_a_poller_that_is_closed_forgets_sockets_without_a_word(ends: Any) -> None:
    poller = Poller(lambda callback: callback())
    poller.add_reader(ends[0].fileno(), lambda: None)
    poller.close()
    poller.remove_reader(ends[0].fileno())
