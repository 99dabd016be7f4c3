# cython: annotation_typing=False
"""Reading the heads of HTTP/1.1 (RFC 9112).

h11 parses them. Here a head is bounded before h11 sees it, and its first line is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11

from creche.handshake.exceptions import InvalidMessage
from creche.handshake.headers import Headers
from creche.handshake.redaction import what_h11_says
from creche.handshake.start_lines import JUDGED_BYTES, recognize, show

# The most of a refusing server's body that is kept, in bytes.
MAX_BODY_BYTES = 2**16


class HeadTooLarge(InvalidMessage):
    """The head of a message is larger than allowed.

    Attributes:
        limit: how many bytes are.
        in_first_line: whether the first line alone is.
    """

    def __init__(self, limit: int, in_first_line: bool) -> None:
        super().__init__(limit, in_first_line)
        self.limit = limit
        self.in_first_line = in_first_line

    def _text(self) -> str:
        return f"the head of the opening handshake has more than {self.limit} bytes"


class NotHTTP(InvalidMessage):
    """The first bytes are no beginning of an HTTP/1.1 message.

    Attributes:
        protocol: what they seem to be, such as "SSH"; empty where that is not known.
        quoted: the first line as it may be shown; empty where it may not.
    """

    def __init__(self, protocol: str, quoted: str = "") -> None:
        super().__init__(protocol, quoted)
        self.protocol = protocol
        self.quoted = quoted

    def _text(self) -> str:
        it_is = f", it seems to be {self.protocol}" if self.protocol else ""
        return f"not HTTP/1.1{it_is}" + (f": {self.quoted}" if self.quoted else "")


class HeadReader:
    """Collects the bytes of a head, bounded, until it is complete.

    Args:
        max_bytes: the most that a head may have.
        may_begin: whether the first line may be so, or begin so, which is asked again and again
            until it is whole.
        method: of our request, if it is an answer that is read. What is not HTTP at all is quoted
            then, but for an echo of the request, which may hold credentials.
    """

    def __init__(
        self, max_bytes: int, may_begin: Callable[[bytes], bool], method: bytes | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._may_begin: Callable[[bytes], bool] | None = may_begin
        self._method = method
        self._buffer = bytearray()

    def receive_data(self, data: bytes | bytearray | memoryview) -> bytes | None:
        """The head with everything after it, once it is complete.

        Raises:
            NotHTTP: no head begins so.
            HeadTooLarge: it has more than `max_bytes` bytes.
        """
        buffer = self._buffer
        searched = max(len(buffer) - 3, 0)
        buffer += data
        if self._may_begin is not None:
            self._judge(self._may_begin, searched)
        end = _end_of_head(buffer, searched)
        size = end or len(buffer)
        if size > self._max_bytes:
            raise HeadTooLarge(self._max_bytes, b"\n" not in buffer[: self._max_bytes])
        return bytes(buffer) if end else None

    def _judge(self, may_begin: Callable[[bytes], bool], searched: int) -> None:
        buffer = self._buffer
        # RFC 9112 2.2: an empty line may come first. Two of them end the head.
        start = len(buffer[:2]) - len(buffer[:2].lstrip(b"\r\n"))
        newline = buffer.find(b"\n", max(searched, start))
        stop = newline + 1 or start + JUDGED_BYTES
        line = bytes(buffer[start:stop])
        if line and not may_begin(line):
            raise self._not_http(line)
        if newline >= 0:
            self._may_begin = None

    def _not_http(self, line: bytes) -> NotHTTP:
        if self._method is None or line.startswith(b"HTTP/"):
            return NotHTTP(recognize(line))
        if line.startswith(self._method):
            return NotHTTP("an echo of the request")
        return NotHTTP(recognize(line), show(line))


def _end_of_head(buffer: bytearray, start: int) -> int:
    """Behind the first empty line after `start`; 0 if there is none (RFC 9112 2.2: a line may end
    without CR)."""
    ends = [
        found + len(empty)
        for empty in (b"\n\r\n", b"\n\n")
        if (found := buffer.find(empty, start)) != -1
    ]
    return min(ends, default=0)


def next_event(http: h11.Connection) -> Any:
    """The next event of h11.

    Raises:
        InvalidMessage: what came is not HTTP/1.1.
    """
    try:
        return http.next_event()
    except h11.RemoteProtocolError as exc:
        what = what_h11_says(exc)
    # Not above, where h11's error would be its context, with the line that it quotes.
    raise InvalidMessage(what)


def decode_headers(fields: Any) -> Headers:
    """h11's header fields as ours.

    Raises:
        InvalidMessage: one has characters that h11 lets through and HTTP does not.
    """
    raw = fields.raw_items()
    try:
        return Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw])
    except ValueError as exc:
        raise InvalidMessage(str(exc)) from None


def encode_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Our header fields as h11's."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.fields]


def trailing_data(http: h11.Connection) -> bytes:
    """What came after the head: the first frames, perhaps."""
    return bytes(http.trailing_data[0])
