# cython: annotation_typing=False
"""permessage-deflate: messages compressed by DEFLATE (RFC 7692).

What a context costs, in bytes: for what is sent, 2 ** (window_bits + 2) + 2 ** (memory_level + 9);
for what arrives, 2 ** window_bits and some 7 KiB. It is made with the first compressed message.
"""

from __future__ import annotations

import zlib
from typing import Any

from creche.protocol.exceptions import ProtocolError
from creche.protocol.extensions import Extension

# What ends each message and is not sent (RFC 7692 7.2.1).
_TAIL = b"\x00\x00\xff\xff"

# Each final block ends a stream of DEFLATE, and another decompressor begins the next: so many
# blocks are read before others get a turn. A peer can fit one into every two bytes.
_BLOCKS_IN_A_ROW = 16

# So much is given to a decompressor at once, and to one that follows a final block: what is behind
# the next one has to be copied.
_MOST_INPUT = 2**14
_LEAST_INPUT = 2**6

MAX_WINDOW_BITS = 15
# zlib inflates a window of 8 bits, but cannot deflate with one.
MIN_DEFLATE_BITS = 9


class Deflate(Extension):
    """permessage-deflate of one connection.

    Args:
        send_window_bits: of what is sent; 8 for no compression at all.
        send_takeover: whether what was sent before helps to compress.
        receive_window_bits: of what arrives.
        receive_takeover: whether the peer refers to what it sent before.
        level: zlib's compression level, 1 to 9.
        memory_level: zlib's memLevel, 1 to 9.
        threshold: messages of fewer bytes are not compressed.
    """

    reserved_bits = Extension.RSV1

    def __init__(
        self,
        send_window_bits: int,
        send_takeover: bool,
        receive_window_bits: int,
        receive_takeover: bool,
        level: int,
        memory_level: int,
        threshold: int,
    ) -> None:
        self._send_window_bits = send_window_bits
        self._send_takeover = send_takeover
        self._receive_window_bits = receive_window_bits
        self._receive_takeover = receive_takeover
        self._level = level
        self._memory_level = memory_level
        self._threshold = threshold
        self.sharing = ("deflate", send_window_bits, level, memory_level, threshold)
        self._compressor: Any = None
        self._decompressor: Any = None
        self._input = b""
        self._position = 0  # what of it was read
        self._step = _MOST_INPUT
        self._more = False  # whether there may be output without further input
        self._finishing = False
        self._at_boundary = False  # whether the last input ended a final block, and no more came

    def encode(self, payload: bytes | memoryview) -> bytes | None:
        if self._leaves(payload):
            return None
        compressor = self._compressor or self._new_compressor()
        if self._send_takeover:
            self._compressor = compressor
        return self._compress(compressor, payload)

    def encode_alone(self, payload: bytes) -> bytes | None:
        return None if self._leaves(payload) else self._compress(self._new_compressor(), payload)

    def sent_alone(self) -> None:
        # What is compressed next refers to nothing before it: the peer's window has moved on, by
        # what our compressor does not know.
        self._compressor = None

    def _leaves(self, payload: bytes | memoryview) -> bool:
        """Whether a message is sent as it is."""
        return len(payload) < self._threshold or self._send_window_bits < MIN_DEFLATE_BITS

    def _new_compressor(self) -> Any:
        return zlib.compressobj(
            self._level, zlib.DEFLATED, -self._send_window_bits, self._memory_level
        )

    @staticmethod
    def _compress(compressor: Any, payload: bytes | memoryview) -> bytes:
        compressed: bytes = compressor.compress(payload)
        rest: bytes = compressor.flush(zlib.Z_SYNC_FLUSH)
        return (compressed + rest)[: -len(_TAIL)]

    def begin(self) -> None:
        if self._decompressor is None:
            self._new_decompressor()

    def _new_decompressor(self) -> None:
        self._decompressor = zlib.decompressobj(-self._receive_window_bits)

    def feed(self, data: bytes) -> None:
        self._input = data
        self._position = 0
        self._more = True

    def finish(self) -> None:
        # A peer that ended its message with a final block needs no tail, unless it has sent the
        # beginning of another one (RFC 7692 7.2.3.4).
        if not self._at_boundary:
            self.feed(_TAIL)
        self._at_boundary = False
        self._finishing = True

    def read(self, limit: int) -> bytes | None:
        blocks = _BLOCKS_IN_A_ROW
        while self._more:
            if self._decompressor is None:
                if blocks == 0:
                    return None
                blocks -= 1
                self._new_decompressor()
            data = self._inflate(limit)
            if data:
                return data
        if self._finishing:
            self._finishing = False
            if not self._receive_takeover:
                self._decompressor = None
        return b""

    def _inflate(self, limit: int) -> bytes:
        """Give the decompressor some of the input; returns at most `limit` bytes, or none."""
        decompressor = self._decompressor
        some = self._input[self._position : self._position + self._step]
        try:
            data: bytes = decompressor.decompress(some, limit)
        except zlib.error as exc:
            self._input = b""
            self._more = False
            raise ProtocolError(f"a compressed message that is broken: {exc}", 1007) from None
        if decompressor.eof:
            self._position += len(some) - len(decompressor.unused_data)
            self._decompressor = None
            self._step = _LEAST_INPUT
            self._more = self._position < len(self._input)
            self._at_boundary = not self._more
        else:
            self._position += len(some) - len(decompressor.unconsumed_tail)
            self._step = min(2 * self._step, _MOST_INPUT)
            # Where the limit is reached, zlib may keep output back though it has all input.
            self._more = self._position < len(self._input) or len(data) == limit
            self._at_boundary = False
        return data
