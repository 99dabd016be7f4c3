from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest

from creche.handshake.addresses import (
    check_authority,
    check_host,
    check_ip_address,
    check_listening,
    check_mode,
    check_port,
    check_unix_path,
)
from creche.options.resolving import client_options, server_options


@pytest.mark.parametrize("port", [1, 80, 65535])
def test_a_port_is_taken(port: int) -> None:
    check_port("port", port)
    check_listening(None, port)


# What the resolver would take for port 80 or the like, what C has no room for, and what is no int.
NO_PORTS: list[Any] = [
    (65536, ValueError, "port must be 1 to 65535, not 65536"),
    (65536 + 80, ValueError, "port must be 1 to 65535, not 65616"),
    (-1, ValueError, "not -1"),
    (2**31, ValueError, "not 2147483648"),
    (2**64 + 80, ValueError, "not one of 65 bits"),
    pytest.param(10**5000, ValueError, "not one of 16610 bits", id="huge"),
    (True, TypeError, "port must be an int, not bool"),
    ("8765", TypeError, "port must be an int, not str"),
    (b"80", TypeError, "not bytes"),
    (80.0, TypeError, "not float"),
]


@pytest.mark.parametrize(("port", "kind", "text"), NO_PORTS)
def test_what_is_no_port_is_told_by_its_name(port: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        client_options({"port": port})
    with pytest.raises(kind, match=text.replace("1 to", "0 to")):
        check_listening("localhost", port)


def test_port_0_is_for_servers_only() -> None:
    check_listening("localhost", 0)
    with pytest.raises(ValueError, match="port must be 1 to 65535, not 0"):
        client_options({"port": 0})
    with pytest.raises(TypeError, match="port must be an int, not NoneType"):
        check_listening("localhost", None)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "a.example.", "A-b_c.example", "xn--nxasmq6b.example", "bücher.example"),
        *("127.0.0.1", "::1", "fe80::1%eth0", "1", "x" * 63 + ".example"),
    ],
)
def test_a_host_is_taken(host: str) -> None:
    check_host("host", host)
    check_listening(host, 0)
    client_options({"host": host, "server_hostname": host, "proxy_server_hostname": host})


def test_a_server_without_a_host_listens_everywhere() -> None:
    check_listening(None, 0)
    check_listening("", 0)


NO_HOSTS: list[tuple[Any, type[Exception]]] = [
    *((text, ValueError) for text in (".", "a..b", ".localhost", "x" * 64, "a." * 127 + "a")),
    *((text, ValueError) for text in ("a b", "a\0b", "a\r\nX: y", "\udc80", "ü" * 70, " ")),
    *((text, ValueError) for text in ("[::1]", "::1%", "1::2::3", "localhost:80", "a/b", "u@a")),
    *((text, ValueError) for text in ("http://a", "a?b", "a#b", "a\\b", "100%", "a\x7f")),
    (b"localhost", TypeError),
    (1, TypeError),
    (True, TypeError),
    (ipaddress.ip_address("::1"), TypeError),
]


@pytest.mark.parametrize(("host", "kind"), NO_HOSTS)
@pytest.mark.parametrize("name", ["host", "server_hostname", "proxy_server_hostname"])
def test_what_is_no_host_is_told_by_its_name(name: str, host: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"^{name} must be "):
        client_options({name: host})
    with pytest.raises(kind, match=r"^host must be "):
        check_listening(host, 0)


@pytest.mark.parametrize("name", ["host", "server_hostname", "proxy_server_hostname"])
def test_a_client_has_a_host_or_none(name: str) -> None:
    assert client_options({name: None})[name] is None  # type: ignore[literal-required]
    with pytest.raises(ValueError, match=f"^{name} must be "):
        client_options({name: ""})


def test_the_local_address_is_an_address_which_nobody_looks_up() -> None:
    for address in ("127.0.0.2", "::1", "fe80::1%eth0"):
        check_ip_address("local_address", address)
    for name in ("localhost", "", "127.0.0.256", "127.1", "[::1]", "127.0.0.1:80"):
        with pytest.raises(ValueError, match=r"^local_address must be an IP address, not"):
            client_options({"local_address": name})
    with pytest.raises(TypeError, match=r"^local_address must be a str, not tuple"):
        client_options({"local_address": ("127.0.0.1", 0)})


@pytest.mark.parametrize("name", ["app.example", "app.example:8080", "[::1]:1", "127.0.0.1"])
def test_an_authority_is_taken(name: str) -> None:
    check_authority("server_name", name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("app.example:" + port, ValueError) for port in ("0", "65536", "-1", "x")),
        *((text, ValueError) for text in ("", ":80", "u@app.example", "app.example/x", "a b")),
        *((text, ValueError) for text in ("ws://app.example", "a..b", "[::1", "app\n.example")),
        (80, TypeError),
    ],
)
def test_what_is_no_authority_is_told_by_its_name(name: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^server_name must be "):
        check_authority("server_name", name)


@pytest.mark.parametrize("path", ["x", b"x", Path("x"), "/tmp/ü", "\udc80"])
def test_a_path_is_taken(path: Any) -> None:
    check_unix_path(path)
    check_unix_path(path, listening=True)


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("", ValueError, "path must not be empty"),
        ("a\0b", ValueError, "path must not contain a NUL"),
        ("\ud800", ValueError, "path has a character"),
        (None, TypeError, "path must be a str or a path, not NoneType"),
        (3, TypeError, "path must be a str or a path, not int"),
        (True, TypeError, "path must be a str or a path, not bool"),
    ],
)
def test_what_is_no_path_is_told_by_its_name(path: Any, kind: type[Exception], text: str) -> None:
    for listening in (False, True):
        with pytest.raises(kind, match=text):
            check_unix_path(path, listening=listening)


def test_names_of_no_file_are_for_clients_only() -> None:
    check_unix_path("\0abstract")
    with pytest.raises(ValueError, match="NUL"):
        check_unix_path("\0abstract", listening=True)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (-1, ValueError),
        (0o10000, ValueError),
        pytest.param(10**5000, ValueError, id="huge"),
        ("0o660", TypeError),
        (True, TypeError),
        (6.6, TypeError),
    ],
)
def test_what_are_no_permissions_is_told_by_its_name(mode: Any, kind: type[Exception]) -> None:
    check_mode(0o660)
    with pytest.raises(kind, match=r"^mode must be "):
        check_mode(mode)


@pytest.mark.parametrize(
    ("backlog", "kind"),
    [
        (0, ValueError),
        (-1, ValueError),
        (2**31, ValueError),
        pytest.param(10**5000, ValueError, id="huge"),
        (True, TypeError),
        ("5", TypeError),
        (1.0, TypeError),
    ],
)
def test_what_is_no_backlog_is_told_by_its_name(backlog: Any, kind: type[Exception]) -> None:
    server_options({"backlog": 2**31 - 1})
    with pytest.raises(kind, match=r"^backlog must be "):
        server_options({"backlog": backlog})


def test_sockets_that_cannot_be_listened_on_are_told_by_their_name() -> None:
    closed = socket.socket()
    closed.close()
    with pytest.raises(ValueError, match=r"^sockets\[0\] is closed"):
        server_options({"sockets": [closed]})
    with pytest.raises(ValueError, match=r"^sockets is empty"):
        server_options({"sockets": []})
    with pytest.raises(ValueError, match=r"^sock is closed"):
        client_options({"sock": closed})


def test_reuse_port_is_refused_where_the_system_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    server_options({"reuse_port": True})
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    server_options({"reuse_port": False})
    with pytest.raises(ValueError, match=r"^reuse_port: this system"):
        server_options({"reuse_port": True})
