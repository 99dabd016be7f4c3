"""basic_auth(): Basic authentication of HTTP for a server (RFC 7617)."""

from __future__ import annotations

import base64
import hmac
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from creche.handshake.http import Request, Response
from creche.handshake.server import reject

Credentials = tuple[str, str]
CheckCredentials = Callable[[str, str], bool | Awaitable[bool]]


def basic_auth(
    realm: str = "",
    credentials: Credentials | Iterable[Credentials] | None = None,
    check_credentials: CheckCredentials | None = None,
) -> Callable[[Request], Awaitable[Response | None]]:
    """A `process_request` that lets in who has a user and a password.

    Others get 401. `request.state["username"]` is the user, then. Passwords go over the wire as
    they are: use TLS. Browsers send none with a WebSocket, but for a user and password in its URI.

    Args:
        realm: what the credentials are for, in ASCII.
        credentials: a pair of user and password, or several; they are compared in constant time.
        check_credentials: called with user and password instead, sync or async; returns whether
            they are right.

    Raises:
        TypeError: not just one of `credentials` and `check_credentials` is given, or not as it
            should be.
        ValueError: `realm` is not ASCII, or a user has a colon.
    """
    if (credentials is None) == (check_credentials is None):
        raise TypeError("basic_auth() needs either credentials or check_credentials")
    if not realm.isascii() or not realm.isprintable():
        raise ValueError("realm must be printable ASCII")
    known = None if credentials is None else _known(credentials)
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    challenge = f'Basic realm="{quoted}", charset="UTF-8"'

    async def process_request(request: Request) -> Response | None:
        given = _given(request)
        if given is not None:
            user, password = given
            if known is not None:
                right = _is_among(known, f"{user}:{password}".encode())
            else:
                assert check_credentials is not None
                answer = check_credentials(user, password)
                right = await answer if inspect.isawaitable(answer) else answer
            if right:
                request.state["username"] = user
                return None
        why = "user and password are missing" if given is None else "user or password are wrong"
        return reject(401, why, [("WWW-Authenticate", challenge)]).response

    return process_request


def _known(credentials: Credentials | Iterable[Credentials]) -> list[bytes]:
    several: Iterable[Any] = [credentials] if _is_pair(credentials) else credentials
    known = []
    for pair in several:
        if not _is_pair(pair):
            raise TypeError("credentials must be a pair of str, or several")
        user, password = pair
        if ":" in user:
            raise ValueError("credentials: a user must not have a colon")
        known.append(f"{user}:{password}".encode())
    return known


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value)


def _is_among(known: list[bytes], given: bytes) -> bool:
    """Whether one of them is it; however many there are, it takes as long."""
    found = False
    for candidate in known:
        found |= hmac.compare_digest(candidate, given)
    return found


def _given(request: Request) -> Credentials | None:
    """The user and password of a request; None if there are none that can be read."""
    values = request.headers.get_all("Authorization")
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(token.strip(), validate=True).decode()
    except ValueError:
        return None
    user, colon, password = decoded.partition(":")
    return (user, password) if colon else None
