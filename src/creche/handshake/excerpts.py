# cython: annotation_typing=False
"""What a server says in the body of a refusal, as far as it may stand in an error.

A server may repeat what it was told. So nothing of a body is shown that has in it what the request
has said in a query, or in a field that may hold a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

from creche.handshake.http import Request, Response
from creche.handshake.redaction import is_harmless
from creche.protocol.escaping import MAX_SHOWN

# What is shorter is no secret, and stands in many a text by chance.
_SHORTEST = 4

# A server may repeat a part only: so many characters in a row are a part.
_RUN = 6

# What the one who asks knows anyway, and a refusal may well speak of.
_PUBLIC = ("host", "origin")

# The parts of a header field or of a query.
_BORDER = re.compile("[\\s,;&]+")

_TEXTS = re.compile(r"(text/plain|application/([a-z0-9.-]+\+)?json) *(;|$)", re.IGNORECASE)


def excerpt(request: Request, response: Response) -> str:
    """The beginning of a refusal's text, in one line; empty where it is no text for people, or
    repeats what may be a secret of the request's."""
    if not _TEXTS.match(response.headers.get("Content-Type", "text/plain")):
        return ""
    try:
        text = response.body.decode()
    except UnicodeDecodeError:
        return ""
    shown = " ".join(text.split())[:MAX_SHOWN]
    said = shown.lower(), shown.replace("\\", "").lower(), unquote_plus(shown).lower()
    for secret in _secrets(request):
        if any(_has_part(each, secret.lower()) for each in said):
            return ""
    return shown


def _has_part(text: str, secret: str) -> bool:
    starts = range(max(len(secret) - _RUN, 0) + 1)
    return any(secret[start : start + _RUN] in text for start in starts)


def _secrets(request: Request) -> Iterator[str]:
    """What a request says that may be a secret, in each form that a server may repeat."""
    query = request.path.partition("?")[2]
    for value in (query, unquote_plus(query)):
        yield from _forms(value)
    for name, value in request.headers.fields:
        if not is_harmless(name) and name.lower() not in _PUBLIC:
            # The first word of credentials names how to read them (RFC 9110 11.4).
            is_named = name.lower() in ("authorization", "proxy-authorization")
            yield from _forms(value.partition(" ")[2] or value if is_named else value)


def _forms(value: str) -> Iterator[str]:
    """A value, each of its parts, and what these name or encode."""
    parts = [value, *_BORDER.split(value)]
    parts += [part.partition("=")[2].strip('"') for part in parts]
    for part in parts:
        if len(part) >= _SHORTEST:
            yield part
            for inner in _decoded(part).split(":"):
                if len(inner) >= _SHORTEST:
                    yield inner


def _decoded(part: str) -> str:
    """What base64 stands for, as in Basic credentials (RFC 7617 2); empty where it is none."""
    try:
        return base64.b64decode(part, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
