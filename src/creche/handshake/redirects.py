# cython: annotation_typing=False
"""Where a redirecting server sends a client (RFC 9110 15.4)."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urljoin, urlsplit

from creche.handshake.exceptions import InvalidRedirect, InvalidURI
from creche.handshake.http import Response
from creche.handshake.uri import URI, parse_uri, without_zone

_STATUSES = frozenset({301, 302, 303, 307, 308})


def redirected(base: URI, response: Response) -> URI | None:
    """Where an answer sends who has asked for `base`; None if it is no redirect.

    http and https mean ws and wss. A user and password go along within an origin only, as
    is_same_origin() has it.

    Raises:
        InvalidRedirect: it leads nowhere, or from wss to ws.
    """
    if response.status not in _STATUSES or "Location" not in response.headers:
        return None
    locations = response.headers.get_all("Location")
    if len(locations) > 1:
        raise InvalidRedirect(response, "to several places at once")
    location = _characters(locations[0])
    scheme = "https" if base.secure else "http"
    joined = None
    try:
        # urljoin() knows of http that it has a path.
        joined = urlsplit(urljoin(f"{scheme}://{base.host_header}{base.resource}", location))
    except ValueError:
        pass  # its text may quote a password
    if joined is None:
        raise InvalidRedirect(response, "to what is not a URI")
    if joined.scheme in ("http", "https"):
        joined = joined._replace(scheme="ws" + joined.scheme[4:])
    try:
        target = parse_uri(joined._replace(fragment="").geturl())
    except InvalidURI as exc:
        raise InvalidRedirect(response, f"to a URI that {exc.why}") from None
    if target.host == without_zone(base.host):
        # The server does not know by which of our interfaces we have come.
        target = replace(target, host=base.host)
    if base.secure and not target.secure:
        raise InvalidRedirect(response, "from wss to ws")
    if target.authorization is None and is_same_origin(base, target):
        target = replace(target, authorization=base.authorization)
    return target


def _characters(location: str) -> str:
    """A Location header as the URI that it stands for. Its bytes, which came as Latin-1, are UTF-8
    where they can be; else each is escaped. Spaces are escaped, too, and tabs left out, as browsers
    do."""
    try:
        text = location.encode("latin-1").decode()
    except UnicodeDecodeError:
        text = re.sub("[\x80-\xff]", lambda found: f"%{ord(found[0]):02X}", location)
    return text.replace("\t", "").replace(" ", "%20")


def is_same_origin(base: URI, target: URI) -> bool:
    """Whether a redirect stays with the server that was asked for: scheme, host and port are the
    same (RFC 6454 5), or it only steps from ws to wss, which is on another port of the host."""
    if target.secure and not base.secure:
        return target.host == base.host
    return target.origin == base.origin
