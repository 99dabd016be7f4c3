from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from creche.transports import listening
from creche.transports.listening import UnixPath, bind_tcp, bind_unix, listening_address
from support import count_descriptors, error, filled, free_port

pytestmark = pytest.mark.anyio


def close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


async def test_port_0_is_the_same_free_port_on_every_address() -> None:
    sockets = await bind_tcp(None, 0)
    ports = {sock.getsockname()[1] for sock in sockets}
    assert len(ports) == 1
    assert ports != {0}
    families = {sock.family for sock in sockets}
    assert socket.AF_INET in families
    if socket.has_ipv6:
        assert families == {socket.AF_INET, socket.AF_INET6}
        assert all(
            sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            for sock in sockets
            if sock.family == socket.AF_INET6
        )
    close_all(sockets)


def fake_addresses(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    async def getaddrinfo(*args: Any, **options: Any) -> Any:
        return [(socket.AF_INET, 0, 0, "", (host, 0)) for host in hosts]

    monkeypatch.setattr("anyio.getaddrinfo", getaddrinfo)


async def test_another_port_is_tried_if_the_first_free_one_is_taken_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
    real = listening._bind
    failures = 2

    def bind(sock: socket.socket, address: Any, *options: Any) -> None:
        nonlocal failures
        if address[0] == "127.0.0.2" and failures:
            failures -= 1
            raise OSError(errno.EADDRINUSE, "taken")
        real(sock, address, *options)

    monkeypatch.setattr(listening, "_bind", bind)
    before = count_descriptors()
    sockets = await bind_tcp("two.example", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    assert len(sockets) == 2
    close_all(sockets)
    failures = 100
    with pytest.raises(OSError, match="taken"):
        await bind_tcp("two.example", 0)
    assert count_descriptors() == before


def localhost(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Any]) -> None:
    """Any name has these addresses, and 127.0.0.1."""

    async def getaddrinfo(*args: Any, **options: Any) -> Any:
        both = [*addresses, (socket.AF_INET, ("127.0.0.1", 0))]
        return [(family, 0, 0, "", address) for family, address in both]

    monkeypatch.setattr("anyio.getaddrinfo", getaddrinfo)


UNAVAILABLE = {
    "no such family": (255, ("x", 0)),
    "an address of another machine": (socket.AF_INET, ("203.0.113.1", 0)),
    "IPv6 of another machine": (socket.AF_INET6, ("2001:db8::1", 0)),
    "a link without its interface": (socket.AF_INET6, ("fe80::1", 0)),
}


@pytest.mark.parametrize("name", UNAVAILABLE)
async def test_of_several_addresses_those_that_are_not_here_are_passed_over(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    localhost(monkeypatch, UNAVAILABLE[name])
    before = count_descriptors()
    sockets = await bind_tcp("localhost", 0, logger=logging.getLogger("test"))
    assert [listening_address(sock)[0] for sock in sockets] == ["127.0.0.1"]
    close_all(sockets)
    [record] = caplog.records
    assert "listening on the other addresses of localhost" in record.message
    assert count_descriptors() == before


async def test_where_no_address_is_here_the_error_names_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_addresses(monkeypatch, "203.0.113.1", "203.0.113.2")
    before = count_descriptors()
    with pytest.raises(OSError, match=r"cannot listen on 203\.0\.113\.1 port 7") as caught:
        await bind_tcp("elsewhere.example", 7)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    fake_addresses(monkeypatch)
    with pytest.raises(OSError, match=r"cannot resolve nowhere\.example") as caught:
        await bind_tcp("nowhere.example", 7)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert count_descriptors() == before


async def test_an_address_that_is_here_and_taken_is_never_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Clients would come to whoever has taken it.
    with socket.create_server(("127.0.0.2", 0)) as taken:
        localhost(monkeypatch, (socket.AF_INET, ("127.0.0.2", 0)))
        before = count_descriptors()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.2 port {port}"):
            await bind_tcp("localhost", port)
        assert count_descriptors() == before


async def test_running_out_of_descriptors_is_no_reason_to_pass_an_address_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    localhost(monkeypatch, (socket.AF_INET, ("127.0.0.2", 0)))

    class Exhausted:
        """The module socket, without a socket."""

        def __getattr__(self, name: str) -> Any:
            return getattr(socket, name)

        def socket(self, family: int, kind: int) -> socket.socket:
            raise error(errno.EMFILE)

    monkeypatch.setattr(listening, "socket", Exhausted())
    with pytest.raises(OSError, match=r"127\.0\.0\.2 port 0: Too many open files"):
        await bind_tcp("localhost", 0)


async def test_a_port_that_is_taken_is_named_and_shared_only_if_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            await bind_tcp("127.0.0.1", port)
    port = free_port()
    first = await bind_tcp("127.0.0.1", port, reuse_port=True)
    second = await bind_tcp("127.0.0.1", port, reuse_port=True)
    close_all(first + second)


async def test_a_host_that_cannot_be_resolved_is_named() -> None:
    for host in ("no-such-host.invalid", "ü" * 70, "a\0b"):
        with pytest.raises(OSError, match="cannot resolve") as caught:
            await bind_tcp(host, 0)
        assert host.partition("\0")[0] in str(caught.value)


async def test_a_unix_socket_has_its_mode_and_replaces_a_stale_one(unix_path: Path) -> None:
    stale = bind_unix(unix_path)
    stale.close()
    sock = bind_unix(unix_path, mode=0o600)
    assert stat.S_IMODE(os.stat(unix_path).st_mode) == 0o600
    assert listening_address(sock) == str(unix_path)
    with pytest.raises(OSError, match=str(unix_path)):
        bind_unix(unix_path)
    sock.close()


async def test_a_path_that_cannot_be_a_socket_is_named() -> None:
    path = "/tmp/" + "x" * 200
    with pytest.raises(OSError, match=f"cannot listen on {path}: AF_UNIX path too long"):
        bind_unix(path)


async def test_a_file_is_never_replaced_by_a_unix_socket(unix_path: Path) -> None:
    unix_path.write_text("precious")
    with pytest.raises(OSError, match=str(unix_path)):
        bind_unix(unix_path)
    assert unix_path.read_text() == "precious"


async def test_only_our_own_unix_socket_is_removed(unix_path: Path) -> None:
    logger = logging.getLogger("test")
    with bind_unix(unix_path):
        ours = UnixPath(unix_path)
        ours.remove(logger)
        assert not unix_path.exists()
        ours.remove(logger)
        with bind_unix(unix_path):
            ours.remove(logger)
            assert unix_path.exists()
            again = UnixPath(unix_path)
            os.utime(unix_path, ns=(0, 0))  # one with the same number, made at another time
            again.remove(logger)
            assert unix_path.exists()


async def test_a_path_is_removed_wherever_the_process_has_gone(
    unix_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unix_path.parent)
    with bind_unix(unix_path.name):
        ours = UnixPath(unix_path.name)
        monkeypatch.chdir("/")
        ours.remove(logging.getLogger("test"))
    assert not unix_path.exists()


async def test_a_path_that_cannot_be_removed_is_logged(
    unix_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unlink(path: str) -> None:
        raise error(errno.EACCES)

    with bind_unix(unix_path):
        ours = UnixPath(unix_path)
        with monkeypatch.context() as patch:
            patch.setattr("os.unlink", unlink)
            ours.remove(logging.getLogger("test"))
    [record] = caplog.records
    assert record.message == f"cannot remove {unix_path}: Permission denied"


async def test_a_path_is_not_left_behind_where_its_mode_cannot_be_set(
    unix_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chmod(path: str, mode: int) -> None:
        raise error(errno.EPERM)

    monkeypatch.setattr("os.chmod", chmod)
    before = count_descriptors()
    with pytest.raises(PermissionError, match=str(unix_path)):
        bind_unix(unix_path, mode=0o600)
    assert not unix_path.exists()
    assert count_descriptors() == before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_a_socket_that_somebody_has_bound_is_taken_though_nobody_listens(
    kind: socket.SocketKind, unix_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as bound:
        bound.bind(str(unix_path))
        made = os.stat(unix_path).st_ino
        with pytest.raises(OSError, match=str(unix_path)) as caught:
            bind_unix(unix_path)
        assert caught.value.errno == errno.EADDRINUSE
        assert os.stat(unix_path).st_ino == made
    bind_unix(unix_path).close()


async def test_a_path_whose_queue_is_full_is_taken_and_nobody_waits_to_find_out(
    unix_path: Path,
) -> None:
    with bind_unix(unix_path, backlog=1) as full, filled(unix_path):
        full.settimeout(0)
        with pytest.raises(OSError, match=str(unix_path)) as caught:
            bind_unix(unix_path)  # synchronous: nothing would end it while it blocks
        assert caught.value.errno == errno.EADDRINUSE


async def test_who_looks_whether_a_path_is_taken_is_no_client(unix_path: Path) -> None:
    with bind_unix(unix_path) as sock:
        sock.setblocking(False)
        with pytest.raises(OSError, match=str(unix_path)):
            bind_unix(unix_path)
        with pytest.raises(BlockingIOError):
            sock.accept()
