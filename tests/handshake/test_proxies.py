from __future__ import annotations

import pytest

from creche.handshake.exceptions import InvalidProxy, InvalidProxyStatus, ProxyError
from creche.handshake.proxies import ConnectHandshake, Proxy, bypasses, parse_proxy
from creche.handshake.uri import basic_authorization


@pytest.mark.parametrize(
    ("uri", "proxy"),
    [
        ("http://proxy.example", Proxy("http", "proxy.example", 80)),
        ("https://proxy.example/", Proxy("https", "proxy.example", 443)),
        ("http://[::1]:3128", Proxy("http", "::1", 3128)),
        ("socks5h://proxy.example", Proxy("socks5h", "proxy.example", 1080)),
        ("SOCKS://proxy.example", Proxy("socks5h", "proxy.example", 1080)),
        ("socks://user@proxy.example:9050", Proxy("socks5h", "proxy.example", 9050, "user")),
        ("http://faß.example.", Proxy("http", "xn--fa-hia.example.", 80)),
        ("http://[fe80::1%25eth0]", Proxy("http", "fe80::1%eth0", 80)),
        ("socks5://proxy.example", Proxy("socks5", "proxy.example", 1080)),
        ("socks4://user@proxy.example", Proxy("socks4", "proxy.example", 1080, "user")),
        ("socks4a://proxy.example:9050", Proxy("socks4a", "proxy.example", 9050)),
        (
            "http://us%20er:p%3Aw%40@proxy.example",
            Proxy("http", "proxy.example", 80, "us er", "p:w@"),
        ),
        ("http://%C3%A9:%E2%82%AC@proxy.example", Proxy("http", "proxy.example", 80, "é", "€")),
        ("socks5://a%3Ab:c@proxy.example", Proxy("socks5", "proxy.example", 1080, "a:b", "c")),
    ],
)
def test_the_uri_of_a_proxy_is_taken_apart(uri: str, proxy: Proxy) -> None:
    assert parse_proxy(uri) == proxy


NO_PATH = "the URI of the proxy must have no path, query or fragment"
TOO_LONG = "the user or the password of the proxy is too long for SOCKS"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("ftp://proxy.example", "must begin with"),
        ("proxy.example:3128", "must begin with"),
        ("http://", "the URI of the proxy has no host"),
        ("http://\udc80@host/", "the URI of the proxy has a lone surrogate, which is no character"),
        ("http://" + "ü" * 70 + "/", "the URI of the proxy has a host that is not a domain name"),
        ("http://proxy.example/path", NO_PATH),
        ("http://proxy.example/?query", NO_PATH),
        ("http://proxy.example:port", "cannot be parsed"),
        ("http://proxy.example:0", "cannot be parsed"),
        ("http://[::1", "cannot be parsed"),
        ("http://proxy.example:65536", "cannot be parsed"),
        (
            "http://proxy.example:0",
            "the URI of the proxy cannot be parsed: its port is not a number from 1 to 65535",
        ),
        (
            "socks5://proxy.example:0",
            "the URI of the proxy cannot be parsed: its port is not a number from 1 to 65535",
        ),
        ("http://a%3Ab:c@proxy.example", "the user of the proxy has a colon, which HTTP forbids"),
        (f"socks5://{'u' * 256}:secret@proxy.example", TOO_LONG),
        (f"socks5h://user:{'secret' * 50}@proxy.example", TOO_LONG),
        (
            "socks5://%C3%A9:secret@proxy.example",
            "the user and the password of a SOCKS proxy must be ASCII",
        ),
        (
            "socks4://user:%C3%A9@proxy.example",
            "the user and the password of a SOCKS proxy must be ASCII",
        ),
    ],
)
def test_a_uri_that_is_of_no_proxy(uri: str, why: str) -> None:
    with pytest.raises(InvalidProxy, match=why) as caught:
        parse_proxy(uri)
    assert str(caught.value) == why or why in ("cannot be parsed", "must begin with")
    assert isinstance(caught.value, ValueError)
    assert "secret" not in str(caught.value)


def test_credentials_are_not_shown() -> None:
    assert "secret" not in repr(parse_proxy("http://user:secret@proxy.example"))


def test_who_looks_names_up() -> None:
    resolving = {
        scheme
        for scheme in ("http", "socks4", "socks4a", "socks5", "socks5h")
        if parse_proxy(f"{scheme}://proxy.example").resolves
    }
    assert resolving == {"http", "socks4a", "socks5h"}


def ask(host: str = "server.example", uri: str = "http://proxy.example") -> ConnectHandshake:
    handshake = ConnectHandshake(parse_proxy(uri), host, 443, user_agent_header="agent")
    handshake.request_bytes()
    return handshake


def test_the_request_for_a_tunnel() -> None:
    proxy = parse_proxy("http://%C3%A9:p%3Aw@proxy.example")
    request = ConnectHandshake(proxy, "::1", 80, user_agent_header="agent").request_bytes()
    assert (
        request
        == (
            "CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n"
            f"Proxy-Authorization: {basic_authorization('é', 'p:w')}\r\nUser-Agent: agent\r\n\r\n"
        ).encode()
    )
    plain = ConnectHandshake(parse_proxy("http://proxy.example"), "server.example", 443)
    assert plain.request_bytes() == (
        b"CONNECT server.example:443 HTTP/1.1\r\nHost: server.example:443\r\n\r\n"
    )


def test_the_target_of_a_tunnel_is_named_as_the_domain_name_system_does() -> None:
    handshake = ConnectHandshake(parse_proxy("http://proxy.example"), "bücher.example", 443)
    assert handshake.request_bytes().startswith(b"CONNECT xn--bcher-kva.example:443 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 204 Go\r\nVia: x\r\n\r\n"]
)
def test_a_tunnel_opens_with_the_last_byte_of_the_answer(answer: bytes) -> None:
    handshake = ask()
    for i in range(len(answer) - 1):
        assert not handshake.receive_data(answer[i : i + 1])
    assert handshake.receive_data(answer[-1:])


def test_a_proxy_that_refuses() -> None:
    with pytest.raises(InvalidProxyStatus, match="407 Proxy Authentication Required") as caught:
        ask().receive_data(b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic\r\n\r\n")
    assert caught.value.response.headers["Proxy-Authenticate"] == "Basic"
    with pytest.raises(InvalidProxyStatus, match="300 Multiple Choices"):
        ask().receive_data(b"HTTP/1.1 300 Which?\r\n\r\n")


def test_a_proxy_that_speaks_tls_is_not_asked_whether_it_does() -> None:
    handshake = ConnectHandshake(parse_proxy("https://proxy.example"), "server.example", 443)
    with pytest.raises(ProxyError, match=r"^the proxy closed the connection before it answered$"):
        handshake.receive_data(b"")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed the connection before it answered; if it speaks TLS or SOCKS, say https://"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1.1"),
        (b"SSH-2.0-x", "^the proxy's answer is not HTTP/1.1, it seems to be SSH: 'SSH-2.0-x'$"),
        (b"\x05\xff", r"SOCKS: '\\x05\\xff'; say socks5h://$"),
        (b"\x15\x03\x01", r"TLS: '\\x15\\x03\\x01'; say https://$"),
        (
            b"CONNECT server.example:443 HTTP/1.1\r\nProxy-Auth",
            "seems to be an echo of the request$",
        ),
        (b"HTTP/1.1 200 " + b"x" * 20_000, "more than 16384 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "interim answer"),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "the proxy's answer is not HTTP/1.1: "),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "more than its answer"),
        (b"HTTP/1.1 200 OK\r\nX: \x01\r\n\r\n", "cannot be used|not HTTP"),
        (b"HTTP/1.1 999 What\r\n\r\n", "cannot be used"),
    ],
)
def test_a_proxy_that_answers_garbage(answer: bytes, why: str) -> None:
    with pytest.raises(ProxyError, match=why):
        ask().receive_data(answer)


@pytest.mark.parametrize(
    ("no_proxy", "host", "bypassed"),
    [
        ("", "a.example", False),
        (" , ", "a.example", False),
        ("*", "a.example", True),
        ("b.example, *", "::1", True),
        ("a.example", "a.example", True),
        ("A.Example", "a.example.", True),
        ("a.example.", "A.example", True),
        ("example", "a.example", True),
        (".example", "a.example", True),
        (".a.example", "a.example", True),
        ("*.example", "a.example", True),
        ("b.example a.example", "a.example", True),
        ("xample", "a.example", False),
        ("b.example", "a.example", False),
        ("a.example:80", "a.example", True),
        ("a.example:81", "a.example", False),
        ("a.example:x", "a.example", False),
        ("faß.example", "xn--fa-hia.example", True),
        ("☃.example", "a.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8:80", "10.1.2.3", True),
        ("10.0.0.0/8:81", "10.1.2.3", False),
        ("10.1.2.3/8", "10.4.5.6", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "10.example", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1:80", "127.0.0.1", True),
        ("0.0.1", "127.0.0.1", False),
        ("fd00::/8", "fd12::1", True),
        ("[fd00::]/8", "fd12::1", True),
        ("[fd00::]/8:81", "fd12::1", False),
        ("fd00::/8", "fe80::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::1", "0:0::1", True),
        ("[::1]", "::1", True),
        ("[::1]:80", "::1", True),
        ("[::1]:81", "::1", False),
        ("10.0.0.0/99", "10.1.2.3", False),
        ("0/0", "10.1.2.3", True),
        ("10/8", "10.1.2.3", True),
        ("10.1/16:80", "10.1.2.3", True),
        ("10.1.2/24", "10.1.3.3", False),
        ("10/99", "10.1.2.3", False),
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("[::ffff:10.0.0.0]/104", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "11.1.2.3", False),
        ("[", "a.example", False),
    ],
)
def test_what_no_proxy_lists(no_proxy: str, host: str, bypassed: bool) -> None:
    assert bypasses(no_proxy, host, 80) is bypassed
