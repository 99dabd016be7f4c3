from __future__ import annotations

import pytest

from creche.handshake.exceptions import InvalidRedirect
from creche.handshake.http import Response
from creche.handshake.redirects import is_same_origin, redirected
from creche.handshake.uri import basic_authorization, parse_uri


def follow(base: str, location: str, status: int = 302) -> str | None:
    target = redirected(parse_uri(base), Response(status, {"Location": location}))
    if target is None:
        return None
    return f"{'wss' if target.secure else 'ws'}://{target.host_header}{target.resource}"


@pytest.mark.parametrize(
    ("base", "location", "target"),
    [
        ("ws://a.example/b/c?d", "e", "ws://a.example/b/e"),
        ("ws://a.example/b/c?d", "/e?f", "ws://a.example/e?f"),
        ("ws://a.example/b", "?f=1", "ws://a.example/b?f=1"),
        ("ws://a.example:81/b", "//b.example/c", "ws://b.example/c"),
        ("wss://a.example:444/b", "/c", "wss://a.example:444/c"),
        ("ws://a.example/b", "wss://a.example/b", "wss://a.example/b"),
        ("ws://a.example/b", "https://b.example/c#d", "wss://b.example/c"),
        ("ws://a.example/b", "http://b.example", "ws://b.example/"),
        ("ws://[::1]:8765/b", "c", "ws://[::1]:8765/c"),
        ("ws://a.example/", "/é?é".encode().decode("latin-1"), "ws://a.example/%C3%A9?%C3%A9"),
        ("ws://a.example/", "/%C3%A9", "ws://a.example/%C3%A9"),
        ("ws://a.example/", "/\xe9", "ws://a.example/%E9"),
        ("ws://a.example/", "/a b?c d", "ws://a.example/a%20b?c%20d"),
        ("ws://a.example/", "/a\tb", "ws://a.example/ab"),
        (
            "ws://a.example/",
            "//faß.example/ß".encode().decode("latin-1"),
            "ws://xn--fa-hia.example/%C3%9F",
        ),
    ],
)
def test_where_a_redirect_leads(base: str, location: str, target: str) -> None:
    assert follow(base, location) == target


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_statuses_that_redirect(status: int) -> None:
    assert follow("ws://a.example/b", "/c", status) == "ws://a.example/c"


@pytest.mark.parametrize("status", [200, 300, 304, 305, 401, 500])
def test_other_statuses_do_not(status: int) -> None:
    assert follow("ws://a.example/b", "/c", status) is None


def test_a_redirect_without_a_location_is_none() -> None:
    assert redirected(parse_uri("ws://a.example/"), Response(302)) is None


@pytest.mark.parametrize("location", ["/c", "ws://[fe80::1]:81/c", "c?d#e"])
def test_a_redirect_keeps_the_zone_that_the_server_cannot_know(location: str) -> None:
    base = parse_uri("ws://user:secret@[fe80::1%25eth0]:81/b")
    target = redirected(base, Response(302, {"Location": location}))
    assert target is not None
    assert target.host == "fe80::1%eth0"
    assert target.authorization == base.authorization
    elsewhere = redirected(base, Response(302, {"Location": "ws://[fe80::1%25eth1]:81/"}))
    assert elsewhere is not None
    assert not is_same_origin(base, elsewhere)


@pytest.mark.parametrize(
    ("base", "location", "why"),
    [
        ("wss://a.example/", "ws://a.example/", "from wss to ws"),
        ("wss://a.example/", "http://a.example/", "from wss to ws"),
        ("ws://a.example/", "ftp://a.example/", "to a URI that must begin with ws"),
        ("ws://a.example/", "ws:///b", "to a URI that has no host"),
        ("ws://a.example/", "//b.example:0/", "its port is not a number from 1 to 65535"),
        ("ws://a.example/", "//b.example:65616/", "to what is not a URI|cannot be parsed"),
        ("ws://a.example/", "//[b", "to what is not a URI"),
        *(
            ("ws://a.example/", f"//b:{port}/", "its port is not a number from 1 to 65535")
            for port in ("0", "65536", "9" * 5000, "-1", "+1", "1e3", "\xb2", "x")
        ),
    ],
)
def test_where_no_client_goes(base: str, location: str, why: str) -> None:
    with pytest.raises(InvalidRedirect, match=why) as caught:
        follow(base, location)
    assert caught.value.response.status == 302


def test_a_user_goes_along_within_an_origin_only() -> None:
    base = parse_uri("ws://user:secret@a.example/b")

    def authorization(location: str) -> str | None:
        target = redirected(base, Response(302, {"Location": location}))
        assert target is not None
        return target.authorization

    assert authorization("/c") == base.authorization
    assert authorization("ws://a.example/c") == base.authorization
    assert authorization("ws://new:secret@a.example/c") == basic_authorization("new", "secret")
    for secured in ("wss://a.example/", "https://A.example:8443/"):
        assert authorization(secured) == base.authorization
    for other in ("ws://b.example/", "ws://a.example:81/", "wss://b.example/"):
        assert authorization(other) is None


def test_a_redirect_to_several_places_leads_nowhere() -> None:
    response = Response(302, [("Location", "/a"), ("Location", "/b")])
    with pytest.raises(InvalidRedirect, match="to several places at once"):
        redirected(parse_uri("ws://a.example/"), response)
