# cython: annotation_typing=False
"""What a connection sends: messages and frames, appended to the outbox.

This is the lowest part of a Connection; see connection.py for the whole.
"""

from __future__ import annotations

from collections.abc import Callable

from creche.protocol.extensions import Extension
from creche.protocol.frames import MAX_CONTROL_PAYLOAD, append_frame, make_frame, make_header
from creche.protocol.masking import new_key
from creche.protocol.messages import plain_bytes
from creche.protocol.states import Side

# Called with each frame: whether it is sent, its opcode with reserved bits, the payload's length,
# whether it is the last of its message, and the payload's first bytes, SHOWN at most.
Observer = Callable[[bool, int, int, bool, bytes], object]
SHOWN = 64


class Sending:
    """What is sent, whatever was received.

    Args:
        side: which end this is.
        outbox: where to append what is to be written.
        extensions: those that were agreed on, in the order of the header.
    """

    def __init__(self, side: Side, outbox: bytearray, extensions: tuple[Extension, ...]) -> None:
        self.side = side
        self.outbox = outbox
        self.masking = side is Side.CLIENT  # whether we mask what we send (RFC 6455 5.1)
        self.extensions = extensions
        self.observer: Observer | None = None
        self._encoding = False

    def send_message(self, opcode: int, payload: bytes | memoryview, encode: bool = True) -> None:
        """Append a message in one frame to the outbox.

        Args:
            opcode: TEXT or BINARY.
            payload: the message.
            encode: whether the extensions may change it.
        """
        if encode and self.extensions:
            opcode, payload = self._encode(opcode, payload)
        self.send_frame(opcode, payload)

    def _encode(self, opcode: int, payload: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        """The message as the extensions change it.

        Raises:
            RuntimeError: an extension sends a message meanwhile, which would overtake this one.
            TypeError: one gives something else than bytes.
        """
        if self._encoding:
            raise RuntimeError("an extension sends a message while it encodes another")
        self._encoding = True
        try:
            for extension in self.extensions:
                encoded = extension.encode(payload)
                if encoded is not None:
                    payload = plain_bytes(encoded)
                    opcode |= extension.reserved_bits
        finally:
            self._encoding = False
        return opcode, payload

    def send_frame(self, opcode: int, payload: bytes | memoryview, fin: bool = True) -> None:
        """Append a frame to the outbox; extensions leave it as it is.

        Args:
            opcode: what it is, with its reserved bits.
            payload: its payload.
            fin: whether it is the last of its message.
        """
        append_frame(self.outbox, opcode, payload, new_key() if self.masking else None, fin)
        self.observe_sent(opcode, payload, fin)

    def observe_sent(self, opcode: int, payload: bytes | memoryview, fin: bool = True) -> None:
        """Tell of a frame that is sent. It is in its place by now: the observer may send, too."""
        if self.observer is not None:
            self.observer(True, opcode, len(payload), fin, bytes(payload[:SHOWN]))

    def send_header(self, opcode: int, payload: bytes | memoryview) -> None:
        """Append the header of a message in one frame, whose payload the caller writes next, and
        then calls `observe_sent`.

        Where nothing is masked, a large payload need not be copied to the outbox.
        """
        self.outbox += make_header(opcode, len(payload), True, False)

    def make_message(self, opcode: int, payload: bytes, frame: bytes | None = None) -> bytes:
        """A message in one frame, which the caller writes next, and then calls `observe_sent`; not
        for a client, which masks.

        Args:
            opcode: as for `send_frame`.
            payload: its payload.
            frame: the frame, where it has been made for others.
        """
        return make_frame(opcode, payload) if frame is None else frame

    def _send_control(self, opcode: int, payload: bytes) -> None:
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"data is {len(payload)} bytes long; a control frame has room for 125")
        self.send_frame(opcode, payload)
