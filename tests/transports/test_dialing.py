from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from creche.transports import dialing
from creche.transports.authorities import client_context
from creche.transports.dialing import (
    accept_transport,
    dial_tcp,
    dial_unix,
    interleave,
    open_transport,
)
from creche.transports.listening import bind_unix
from creche.transports.resolving import resolve, socket_address
from creche.transports.sockets import named_error
from support import cancelled_once, count_descriptors, filled, free_port, greeted

pytestmark = pytest.mark.anyio

V4, V6 = socket.AF_INET, socket.AF_INET6


def test_the_families_take_turns_the_resolvers_first_one_first() -> None:
    addresses = [(V6, 1), (V6, 2), (V6, 3), (V4, 4), (V4, 5)]
    assert interleave(addresses) == [(V6, 1), (V4, 4), (V6, 2), (V4, 5), (V6, 3)]
    assert interleave(addresses[3:]) == [(V4, 4), (V4, 5)]


def test_the_kernel_takes_the_interface_as_a_number() -> None:
    index, name = socket.if_nameindex()[0]
    for zone in (name, str(index)):
        assert socket_address((f"fe80::1%{zone}", 80)) == ("fe80::1", 80, 0, index)
    for address in (("::1", 80), ("127.0.0.1", 80), ("::1", 80, 0, 0)):
        assert socket_address(address) == address
    with pytest.raises(OSError, match="interface"):
        socket_address(("fe80::1%no-such-interface", 80))


async def test_addresses_keep_the_interface_that_they_are_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, name = socket.if_nameindex()[0]
    assert await resolve(f"fe80::1%{name}", 80) == [(V6, ("fe80::1", 80, 0, index))]
    async with resolving(monkeypatch, (V6, (f"fe80::1%{index}", 80)), (V4, ("10.0.0.1", 80))):
        found = await resolve("host.example", 80)
    assert found == [(V6, ("fe80::1", 80, 0, index)), (V4, ("10.0.0.1", 80))]
    with pytest.raises(OSError, match=r"cannot resolve fe80::1%no-such-interface: no interface"):
        await dial_tcp("fe80::1%no-such-interface", 80)


@pytest.fixture
async def port(anyio_backend: Any) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@asynccontextmanager
async def resolving(
    monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Any]
) -> AsyncIterator[None]:
    """Whatever is looked up has these addresses."""

    async def getaddrinfo(host: str, port: int, **options: Any) -> Any:
        return [(family, 0, 0, "", address) for family, address in addresses]

    with monkeypatch.context() as patch:
        patch.setattr("anyio.getaddrinfo", getaddrinfo)
        yield


async def test_an_address_is_connected_to_from_the_one_that_is_asked_for(port: int) -> None:
    sock = await dial_tcp("localhost", port, local_address="127.0.0.2")
    assert sock.getpeername()[1] == port
    assert sock.getsockname()[0] == "127.0.0.2"
    assert not sock.getblocking()
    sock.close()


async def test_the_next_address_is_tried_at_once_when_one_fails(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_descriptors()
    async with resolving(monkeypatch, (V4, ("127.0.0.1", free_port())), (V4, ("127.0.0.1", port))):
        with anyio.fail_after(20):
            sock = await dial_tcp("two.example", port, attempt_delay=60)
    assert sock.getpeername()[1] == port
    sock.close()
    assert count_descriptors() == before


async def test_the_next_address_is_tried_when_one_does_not_answer(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_descriptors()
    real = dialing._connect

    async def connect(family: int, address: Any, local_address: str | None) -> socket.socket:
        if address == "silent":
            await anyio.sleep_forever()
        return await real(family, address, local_address)

    monkeypatch.setattr(dialing, "_connect", connect)
    async with resolving(monkeypatch, (V4, "silent"), (V4, ("127.0.0.1", port))):
        sock = await dial_tcp("two.example", port, attempt_delay=0.01)
    assert sock.getpeername()[1] == port
    sock.close()
    assert count_descriptors() == before


async def test_of_two_that_answer_at_once_one_is_taken_and_the_other_closed(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = anyio.Event()
    made = []
    real = dialing._connect

    async def connect(family: int, address: Any, local_address: str | None) -> socket.socket:
        sock = await real(family, address, local_address)
        made.append(sock)
        if len(made) == 2:
            both.set()
        with anyio.CancelScope(shield=True):
            await both.wait()
        return sock

    monkeypatch.setattr(dialing, "_connect", connect)
    address = (V4, ("127.0.0.1", port))
    async with resolving(monkeypatch, address, address):
        sock = await dial_tcp("two.example", port, attempt_delay=0.001)
    assert sock in made
    assert sorted(other.fileno() >= 0 for other in made) == [False, True]
    sock.close()


async def test_if_every_address_fails_the_error_names_host_and_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError, match=f"cannot connect to 127.0.0.1 port {port}"):
        await dial_tcp("127.0.0.1", port)
    address = (V4, ("127.0.0.1", port))
    async with resolving(monkeypatch, address, address):
        with pytest.raises(ConnectionRefusedError) as caught:
            await dial_tcp("two.example", port)
    assert isinstance(caught.value.__cause__, ExceptionGroup)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "ü" * 70])
async def test_a_host_that_cannot_be_resolved_is_named(host: str) -> None:
    with pytest.raises(OSError, match=f"cannot resolve '?{host}"):
        await dial_tcp(host, 80)


async def test_a_cancelled_dial_leaves_no_descriptor(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_descriptors()
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        address = full.getsockname()
        fillers = []
        for _ in range(4):  # the backlog is full: further connections get no answer
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        with anyio.move_on_after(0.05) as scope:
            (await dial_tcp(*address)).close()
        assert scope.cancelled_caught
        for filler in fillers:
            filler.close()
    assert count_descriptors() == before


async def test_a_dial_that_is_cancelled_as_it_succeeds_leaves_no_descriptor(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_descriptors()
    real = dialing._connect

    async def connect(family: int, address: Any, local_address: str | None) -> socket.socket:
        sock = await real(family, address, local_address)
        outer.cancel()
        return sock

    async def resolve(host: str, port: int) -> list[Any]:
        return [(socket.AF_INET, (host, port))] * 2

    monkeypatch.setattr(dialing, "_connect", connect)
    monkeypatch.setattr(dialing, "resolve", resolve)
    with anyio.CancelScope() as outer:
        await dial_tcp("127.0.0.1", port)
    assert outer.cancelled_caught
    assert count_descriptors() == before


async def test_a_dial_of_several_addresses_that_is_cancelled_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = count_descriptors()

    async def connect(*_: object) -> socket.socket:
        await anyio.sleep_forever()
        raise AssertionError

    async def resolve(host: str, port: int) -> list[Any]:
        return [(socket.AF_INET, (host, port))] * 2

    monkeypatch.setattr(dialing, "_connect", connect)
    monkeypatch.setattr(dialing, "resolve", resolve)
    with anyio.move_on_after(0.01) as scope:
        await dial_tcp("127.0.0.1", 1)
    assert scope.cancelled_caught
    assert count_descriptors() == before


async def test_a_unix_socket_is_connected_to_or_named(unix_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(unix_path)):
        await dial_unix(unix_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(unix_path))
        listener.listen()
        sock = await dial_unix(unix_path)
        assert sock.getpeername() == str(unix_path)
        sock.close()


async def test_a_unix_socket_without_room_is_asked_again_until_there_is(
    unix_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            full.accept()[0].close()
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("anyio.sleep", sleep)
    before = count_descriptors()
    with bind_unix(unix_path, backlog=1) as full, filled(unix_path):
        sock = await dial_unix(unix_path)
        assert sock.getpeername() == str(unix_path)
        sock.close()
    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05, 0.05]
    assert count_descriptors() == before


async def test_a_connection_that_the_kernel_does_not_begin_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    def connect(sock: socket.socket, address: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(socket.socket, "connect", connect)
    before = count_descriptors()
    with pytest.raises(BlockingIOError, match=f"cannot connect to 127.0.0.1 port {port}"):
        await dial_tcp("127.0.0.1", port)
    assert count_descriptors() == before


async def test_tls_sends_the_name_and_verifies_the_server(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    names = []
    server_tls.sni_callback = lambda sock, name, context: names.append(name)
    try:
        for context, name, error in (
            (client_tls, "localhost", None),
            (client_tls, "wrong.example", ssl.SSLCertVerificationError),
            (client_context(), "localhost", ssl.SSLCertVerificationError),
        ):
            ours, theirs = socket.socketpair()
            async with anyio.create_task_group() as tg:

                async def accept(theirs: socket.socket = theirs) -> None:
                    try:
                        transport = await greeted(theirs, server_tls)
                        transport.close()
                    except ssl.SSLError:
                        pass

                tg.start_soon(accept)
                if error is None:
                    transport = await open_transport(ours, context, server_hostname=name)
                    assert transport.extra_attributes[TLSAttribute.server_side]() is False
                    transport.close()
                else:
                    with pytest.raises(error):
                        await open_transport(ours, context, server_hostname=name)
                    assert ours.fileno() == -1
        assert names == ["localhost", "wrong.example", "localhost"]
    finally:
        server_tls.sni_callback = None


async def test_a_tls_handshake_that_is_cancelled_closes_the_socket(
    client_tls: ssl.SSLContext,
) -> None:
    before = count_descriptors()
    ours, theirs = socket.socketpair()
    with theirs:
        async with cancelled_once() as scope:
            await open_transport(ours, client_tls, server_hostname="localhost")
    assert scope.cancelled_caught
    assert count_descriptors() == before


async def test_an_accepted_socket_that_is_of_no_use_is_closed() -> None:
    for context in (None, object()):
        ours, theirs = socket.socketpair()
        with theirs:
            if context is None:
                ours.close()
            with pytest.raises((OSError, AttributeError)):
                wrong: Any = context
                accept_transport(ours, wrong, None, memoryview(bytearray(1)))
            assert ours.fileno() == -1


async def test_a_socket_that_cannot_be_wrapped_is_closed(client_tls: ssl.SSLContext) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(ValueError, match="idna"):
            await open_transport(ours, client_tls, server_hostname=".localhost")
        assert ours.fileno() == -1


def test_errors_keep_their_class_and_number() -> None:
    named = named_error(ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "cannot")
    assert type(named) is ConnectionRefusedError
    assert named.errno == errno.ECONNREFUSED
    assert "cannot: refused" in str(named)
    assert str(named_error(OSError("path too long"), "cannot")) == "cannot: path too long"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", (socket.AF_INET, ("127.0.0.1", 80))),
        ("::1", (socket.AF_INET6, ("::1", 80, 0, 0))),
        ("2001:db8::1", (socket.AF_INET6, ("2001:db8::1", 80, 0, 0))),
    ],
)
async def test_an_ip_address_is_not_looked_up(
    host: str, address: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio.getaddrinfo", None)
    assert await resolve(host, 80) == [address]
    assert await resolve(host, 80, passive=True) == [address]
