# cython: annotation_typing=False
"""What of a text may stand in an error, a log line or a repr.

Errors travel: into logs, into the reports of crashes, to other processes. What may hold a secret
is taken out where an error is made, so that neither its text, nor its `args`, nor a copy has it.
"""

from __future__ import annotations

import re

from creche.protocol.escaping import quote

# What stands in the place of a secret.
HIDDEN = "***"

# The fields whose values are words of the standards, digits of public data, or what every server
# logs. All others may hold a token, also those that nobody has heard of.
_HARMLESS = frozenset(
    {
        "allow",
        "connection",
        "content-length",
        "content-type",
        "date",
        "retry-after",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",  # it is used once, and opens nothing
        "sec-websocket-version",
        "server",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)

# What ends a user and a password; written as an escape it is a slip.
_AT = re.compile("@|%40")
_END = re.compile("[?#]")
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
# Where a port should be, there may be the password of somebody who has forgotten the host.
_NO_PORT = re.compile(r"([^/:\[]*:)(?![0-9]*(?:/|$))[^/]*")

# The errors of h11 that say what is wrong; what they quote comes behind.
_OF_H11 = (
    "illegal request line",
    "illegal status line",
    "illegal header line",
    "illegal chunk header",
    "malformed chunk footer",
    "no request line received",
    "no response line received",
    "continuation line at start of headers",
    "Missing mandatory Host: header",
    "Found multiple Host: headers",
    "conflicting Content-Length headers",
    "bad Content-Length",
    "multiple Transfer-Encoding headers",
    "Only Transfer-Encoding: chunked is supported",
    "Receive buffer too long",
    "Too much data for declared Content-Length",
    "Too little data for declared Content-Length",
)


def without_secrets(uri: str) -> str:
    """A URI, however malformed, without its user, password, query and fragment.

    Where it cannot be known what is what, less is shown: a password may hold "/", "?", "#" and "@".
    """
    scheme = _SCHEME.match(uri)
    start = scheme.end() if scheme else 0
    prefix, rest = uri[:start], uri[start:]
    shown = _END.split(rest, maxsplit=1)[0]
    ends = [found.end() for found in _AT.finditer(rest)]
    if ends and ends[-1] > len(shown):
        return prefix + HIDDEN
    if ends:
        prefix, shown = f"{prefix}{HIDDEN}@", shown[ends[-1] :]
    wrong = _NO_PORT.match(shown) if scheme else None
    if wrong:
        shown = wrong[1] + HIDDEN + shown[wrong.end() :]
    return prefix + shown


def shown_authority(text: str) -> str:
    """What somebody gives as a host or an address, in quotes, however wrong it is: without a user
    and a password, also where the host has been forgotten."""
    if text.count(":") == 1 and not _SCHEME.match(text):
        text = without_secrets(f"ws://{text}").removeprefix("ws://")
    return quote(without_secrets(text))


def shown_value(name: str, value: str) -> str:
    """The value of a header field, if it is one of those that hold no secret."""
    return value if is_harmless(name) else HIDDEN


def is_harmless(name: str) -> bool:
    """Whether a header field holds no secret."""
    return name.lower() in _HARMLESS


def shown_path(target: str) -> str:
    """The target of a request without its query."""
    if target.startswith("/"):
        return _END.split(target, maxsplit=1)[0]
    return without_secrets(target)


def what_h11_says(exc: Exception) -> str:
    """An error of h11 without what it quotes: whole lines, with cookies and credentials in them."""
    text = str(exc)
    return next((known for known in _OF_H11 if text.startswith(known)), "it is malformed")
