# cython: annotation_typing=False
"""A message for many connections, encoded once for each kind of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from creche.protocol.extensions import Extension
from creche.protocol.frames import make_frame
from creche.protocol.messages import encode_message, message_opcode

# The opcode with its reserved bits, the payload, and both as a frame without a mask, which there
# is of small messages only: of others only the payload is shared.
Encoded = tuple[int, bytes, bytes | None]

# From so many bytes on, copying a payload costs more than writing it apart from its header.
LARGE = 2**15


class PreparedMessage:
    """A message that is encoded once, and compressed once for each kind of connection.

    `broadcast`, `WebSocket.send` and `send_nowait` take it in place of the message. Connections are
    of a kind if their extensions were agreed on alike. What is compressed for many refers to
    nothing that one of them was sent before, and what follows it refers to nothing before it.

    Args:
        message: str is text, bytes-like is binary; it is copied if it can change.
        text: whether it is text, whatever its type; None if that is for its type to say.
        compress: False to send it uncompressed, and unchanged by other extensions.

    Raises:
        TypeError: `message` is neither str nor bytes-like.
        ValueError: it is text that is not UTF-8.
    """

    __slots__ = ("_encoded", "_plain", "compress", "opcode", "payload")

    def __init__(
        self,
        message: str | bytes | bytearray | memoryview,
        *,
        text: bool | None = None,
        compress: bool = True,
    ) -> None:
        self.payload = bytes(encode_message(message, text))
        self.opcode = message_opcode(message, text)
        self.compress = compress
        self._plain = self._frame(self.opcode, self.payload)
        self._encoded: dict[Hashable, Encoded] = {}

    def __repr__(self) -> str:
        return f"<PreparedMessage of {len(self.payload)} bytes>"

    def check_text(self, text: bool | None) -> None:
        """Raise a TypeError if somebody else says whether it is text."""
        if text is not None:
            raise TypeError("text: a PreparedMessage says itself whether it is text")

    def encode_for(self, extensions: Sequence[Extension]) -> Encoded | None:
        """The message for these extensions of a connection that sends it now; None if one of them
        shares nothing."""
        if not extensions:
            return self._plain
        kind = tuple([extension.sharing for extension in extensions])
        encoded = self._encoded.get(kind)
        if encoded is None:
            if None in kind:
                return None
            opcode, payload = self.opcode, self.payload
            for extension in extensions:
                changed = extension.encode_alone(payload)
                if changed is not None:
                    opcode |= extension.reserved_bits
                    payload = changed
            encoded = self._encoded[kind] = self._frame(opcode, payload)
        for extension in extensions:
            if encoded[0] & extension.reserved_bits:
                extension.sent_alone()
        return encoded

    def _frame(self, opcode: int, payload: bytes) -> Encoded:
        return opcode, payload, make_frame(opcode, payload) if len(payload) < LARGE else None
