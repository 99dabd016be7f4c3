# cython: annotation_typing=False
"""Close codes and close frames (RFC 6455 5.5.1 and 7.4)."""

from __future__ import annotations

from dataclasses import dataclass

from creche.protocol.escaping import escape
from creche.protocol.exceptions import ProtocolError

NO_STATUS = 1005
ABNORMAL = 1006
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011

# The registry of RFC 6455 7.4.1 and IANA: what a code means, and whether it may stand in a frame.
CLOSE_CODES: dict[int, tuple[str, bool]] = {
    1000: ("normal closure", True),
    1001: ("going away", True),
    1002: ("protocol error", True),
    1003: ("unsupported data", True),
    1004: ("reserved", False),
    1005: ("no status received", False),
    1006: ("abnormal closure", False),
    1007: ("invalid payload data", True),
    1008: ("policy violation", True),
    1009: ("message too big", True),
    1010: ("mandatory extension", True),
    1011: ("internal error", True),
    1012: ("service restart", True),
    1013: ("try again later", True),
    1014: ("bad gateway", True),
    1015: ("TLS handshake", False),
}

# A connection that the peer ends with one of these ended well.
NORMAL_CODES = frozenset({1000, 1001, NO_STATUS})

MAX_REASON_BYTES = 123


def may_be_sent(code: int) -> bool:
    """Whether `code` may stand in a close frame (RFC 6455 7.4.2)."""
    return 3000 <= code <= 4999 or CLOSE_CODES.get(code, ("", False))[1]


@dataclass(frozen=True, slots=True)
class Close:
    """The content of a close frame.

    Attributes:
        code: the close code; 1005 stands for a frame without one.
        reason: text of at most 123 bytes of UTF-8, as it came; `str` of this escapes it.
    """

    code: int
    reason: str = ""

    def __str__(self) -> str:
        if self.code in CLOSE_CODES:
            meaning = CLOSE_CODES[self.code][0]
        elif self.code >= 4000:
            meaning = "private use"
        else:
            meaning = "registered"
        return f"{self.code} ({meaning})" + (f" {escape(self.reason)}" if self.reason else "")

    def payload(self) -> bytes:
        """The frame's payload."""
        if self.code == NO_STATUS:
            return b""
        return self.code.to_bytes(2, "big") + self.reason.encode()


def make_close(code: int, reason: str) -> Close:
    """The close frame that an application asks for.

    Raises:
        TypeError: `code` is not an int or `reason` is not a str.
        ValueError: `code` may not be sent, or `reason` is longer than 123 bytes.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"code must be an int, not {type(code).__name__}")
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str, not {type(reason).__name__}")
    if not may_be_sent(code):
        raise ValueError(f"code {code} may not be sent in a close frame (RFC 6455 7.4)")
    size = len(reason.encode())
    if size > MAX_REASON_BYTES:
        raise ValueError(f"reason is {size} bytes long; a close frame has room for 123")
    return Close(code, reason)


def parse_close(payload: bytes) -> Close:
    """The content of a close frame that the peer sent.

    Raises:
        ProtocolError: one byte only, a code that may not be sent, or a reason that is not UTF-8.
    """
    if not payload:
        return Close(NO_STATUS)
    if len(payload) == 1:
        raise ProtocolError("a close frame with one byte of payload")
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise ProtocolError(f"close code {code} may not be sent")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError as exc:
        raise ProtocolError(f"the close reason is not UTF-8: {exc.reason}", 1007) from None
