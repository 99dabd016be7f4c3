# cython: annotation_typing=False
"""What a peer does wrong on an open connection, and the base of all exceptions.

What is raised when a connection has ended is in creche.exceptions: those classes are also
AnyIO's, and this layer does not know AnyIO.
"""

from __future__ import annotations

from creche.protocol.escaping import MAX_TEXT, escape, quote


class WebSocketError(Exception):
    """The base of every exception of this library that is not a misuse.

    Its text and its repr can be logged and printed: what a peer has said is escaped, and cut. The
    attributes have it as it came, for programs that compare it.
    """

    def __str__(self) -> str:
        return escape(self._text(), MAX_TEXT)

    def __repr__(self) -> str:
        # That of Exception has each argument whole.
        shown = ", ".join([quote(arg) if isinstance(arg, str) else repr(arg) for arg in self.args])
        return escape(f"{type(self).__name__}({shown})", MAX_TEXT)

    def _text(self) -> str:
        """What is wrong; it is escaped by the one who asks."""
        return super().__str__()


class PeerError(WebSocketError):
    """What the peer did wrong on an open connection; the cause of a ConnectionClosedError.

    Attributes:
        close_code: the close code that tells the peer (RFC 6455 7.4.1).
    """

    close_code = 1002

    def __init__(self, message: str, close_code: int | None = None) -> None:
        super().__init__(message)
        if close_code is not None:
            self.close_code = close_code


class ProtocolError(PeerError):
    """The peer broke RFC 6455: a bad frame (1002) or text that is not UTF-8 (1007)."""


class PayloadTooBig(PeerError):
    """A message was larger than `max_size` or came in more than `max_fragments` (1009)."""

    close_code = 1009
