# cython: annotation_typing=False
"""The first line of an HTTP/1.1 message (RFC 9112 2.1), judged as it comes.

Who is not HTTP/1.1 may say no more than a line, and wait for ours: an SSH or a mail server does. So
its first bytes are enough to be told from it, and as far as they are known, what it speaks.
"""

from __future__ import annotations

import re

from creche.handshake.headers import TOKEN_CHARACTER

# As far as these, a line that is not whole yet is judged.
JUDGED_BYTES = 64

_STATUS_LINE = re.compile(rb"HTTP/\d\.\d \d\d\d(?=[ \r\n]|$)")
_SHORTEST_STATUS_LINE = b"HTTP/1.1 200"

_TOKEN = TOKEN_CHARACTER.encode() + b"+"
_REQUEST_LINE = re.compile(_TOKEN + rb" [!-~]+ HTTP/\d+\.\d+\r?\n")
_BEGUN_REQUEST_LINE = re.compile(_TOKEN + rb"(?: (?:[!-~]+(?: [HTP/\d.]*\r?)?)?)?")

# What others say first, or to a request that they do not understand, and what they are called.
_KNOWN = (
    (rb"\x15\x03[\x00-\x04]|\x16\x03[\x00-\x04]", "TLS"),  # an alert, a handshake
    (rb"PRI \* HTTP/2|\x00..[\x04\x07][\x00\x01]\x00{4}", "HTTP/2"),  # SETTINGS, GOAWAY
    (rb"SSH-", "SSH"),
    (rb"220[ -].*(?i:ftp)", "FTP"),
    (rb"220[ -].*(?i:smtp|mail)", "SMTP"),
    (rb"[245]\d\d[ -]|EHLO |HELO ", "SMTP or FTP"),
    (rb"\+OK", "POP3"),
    (rb"\* (?:OK|PREAUTH|BYE)", "IMAP"),
    (rb"-(?:ERR|NOAUTH|DENIED|LOADING|MISCONF)", "Redis"),
    (rb"\x05[\x00-\x08\xff]|\x04[\x01\x02]|\x00[\x5a-\x5d]", "SOCKS"),  # 5, 4, an answer of 4
    (rb"...\x00[\x0a\xff]", "MySQL"),
    (rb"AMQP", "AMQP"),
    (rb"RTSP/", "RTSP"),
    (rb"SIP/", "SIP"),
    (rb"RFB ", "VNC"),
    (rb"\x03\x00\x00", "RDP"),
    (rb"INFO \{", "NATS"),
    (rb"GET \S*\r?\n|\s*<(?i:!doctype|html|\?xml)", "HTTP/0.9"),
)
_NAMES = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _KNOWN)


def may_be_status_line(data: bytes) -> bool:
    """Whether an answer may begin so: with a whole line, or the beginning of one."""
    return _STATUS_LINE.match(data + _SHORTEST_STATUS_LINE[len(data) :]) is not None


def may_be_request_line(data: bytes) -> bool:
    """Whether a request may begin so: with a whole line, or the beginning of one."""
    wanted = _REQUEST_LINE if data.endswith(b"\n") else _BEGUN_REQUEST_LINE
    return wanted.fullmatch(data) is not None


def recognize(data: bytes) -> str:
    """What speaks so; empty where that is not known."""
    for pattern, name in _NAMES:
        if pattern.match(data):
            return name
    return ""


def show(data: bytes) -> str:
    """The first line for a message: escaped, and not too long."""
    line = data[:JUDGED_BYTES].splitlines()[0] if data.strip(b"\r\n") else data
    return repr(bytes(line))[1:]
