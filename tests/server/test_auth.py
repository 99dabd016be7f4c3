from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest

import creche

pytestmark = pytest.mark.anyio

GOOD = ("ällice", "p:w é")


async def say_who(ws: creche.WebSocket) -> None:
    await ws.send(ws.request.state["username"])


def with_credentials(url: str, user: str, password: str) -> str:
    return url.replace("//", f"//{quote(user)}:{quote(password)}@")


async def refused(url: str, **headers: str) -> creche.Response:
    with pytest.raises(creche.InvalidStatus) as caught:
        async with creche.connect(url, additional_headers=headers):
            pass
    assert caught.value.response.status == 401
    return caught.value.response


async def checked(user: str, password: str) -> bool:
    return (user, password) == GOOD


@pytest.mark.parametrize(
    "options",
    [
        {"credentials": GOOD},
        {"credentials": [("bob", "x"), GOOD]},
        {"check_credentials": lambda user, password: (user, password) == GOOD},
        {"check_credentials": checked},
    ],
)
@pytest.mark.feature("basic_auth", "uri_credentials")
async def test_who_has_user_and_password_is_let_in(options: Any) -> None:
    process_request = creche.basic_auth('the "inner" \\ room', **options)
    async with creche.serving(say_who, "127.0.0.1", process_request=process_request) as server:
        async with creche.connect(with_credentials(server.url, *GOOD)) as ws:
            assert await ws.receive() == GOOD[0]
        response = await refused(with_credentials(server.url, GOOD[0], "x"))
        assert response.body == b"user or password are wrong\n"
        await refused(with_credentials(server.url, "x", GOOD[1]))
        response = await refused(server.url)
        assert response.body == b"user and password are missing\n"
        assert response.headers["WWW-Authenticate"] == (
            'Basic realm="the \\"inner\\" \\\\ room", charset="UTF-8"'
        )


@pytest.mark.parametrize(
    "value",
    [
        "Bearer " + base64.b64encode(b"user:pw").decode(),
        "Basic user:pw",
        "Basic " + base64.b64encode(b"user").decode(),
        "Basic " + base64.b64encode(b"\xff:pw").decode(),
        "Basic",
    ],
)
async def test_what_cannot_be_read_is_refused(value: str) -> None:
    process_request = creche.basic_auth(credentials=("user", "pw"))
    async with creche.serving(say_who, "127.0.0.1", process_request=process_request) as server:
        response = await refused(server.url, Authorization=value)
        assert response.body == b"user and password are missing\n"


async def test_two_authorizations_are_none() -> None:
    process_request = creche.basic_auth(credentials=("user", "pw"))
    right = "Basic " + base64.b64encode(b"user:pw").decode()
    request = creche.Request("/", [("Authorization", right)])
    assert await process_request(request) is None
    twice = creche.Request("/", [("Authorization", right), ("Authorization", right)])
    assert await process_request(twice) is not None


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({}, TypeError, "either credentials or check_credentials"),
        (
            {"credentials": GOOD, "check_credentials": checked},
            TypeError,
            "either credentials or check_credentials",
        ),
        ({"credentials": ["user", "pw"]}, TypeError, "a pair of str, or several"),
        ({"credentials": [("user", 1)]}, TypeError, "a pair of str, or several"),
        ({"credentials": ("us:er", "pw")}, ValueError, "a user must not have a colon"),
        ({"credentials": GOOD, "realm": "é"}, ValueError, "realm must be printable ASCII"),
        ({"credentials": GOOD, "realm": "a\r\nb"}, ValueError, "realm must be printable ASCII"),
    ],
)
async def test_wrong_use_is_told(options: Any, error: Any, why: str) -> None:
    with pytest.raises(error, match=why):
        creche.basic_auth(**options)
