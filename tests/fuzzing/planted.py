"""Faults for the fuzzers to find: what stands in the source, and what is put in its place.

`nox -s fuzz -- --planted` plants each of them in a copy. Every one is what somebody might write by
mistake in C; some of them change nothing that a caller sees.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """A fault.

    Attributes:
        kind: what is wrong.
        file: where, in the package.
        right: what stands there, once.
        wrong: what is put in its place.
    """

    kind: str
    file: str
    right: str
    wrong: str


FAULTS = [
    Fault(
        "a length is read beyond the end of what has arrived",
        "protocol/frames.py",
        "if start + 8 > end:",
        "if start + 7 > end:",
    ),
    Fault(
        "a masking key is read beyond the end of what has arrived",
        "protocol/frames.py",
        "if start + 4 > end:",
        "if start + 3 > end:",
    ),
    Fault(
        "a bit is shifted into the sign of a length",
        "protocol/frames.py",
        "if data[start] & 0x80:",
        "if data[start] == 0x80:",
    ),
    Fault(
        "a length has 32 bits",
        "protocol/frames.pxd",
        "reserved=int, length=Py_ssize_t, i=Py_ssize_t",
        "reserved=int, length=int, i=Py_ssize_t",
    ),
    Fault(
        "a byte behind the payload is masked",
        "protocol/masking.py",
        "if start + 2 < stop:",
        "if start + 2 <= stop:",
    ),
    Fault(
        "a masking key is read beyond its end",
        "protocol/masking.py",
        "fourth = key[(offset + 3) & 3]",
        "fourth = key[(offset + 3) & 7]",
    ),
    Fault(
        "a pointer into a buffer that has grown since",
        "protocol/octets.pxd",
        """\
        PyByteArray_Resize(out, size + PyBytes_GET_SIZE(data))
        memcpy(PyByteArray_AS_STRING(out) + size,""",
        """\
        place = PyByteArray_AS_STRING(out) + size
        PyByteArray_Resize(out, size + PyBytes_GET_SIZE(data))
        memcpy(place,""",
    ),
    Fault(
        "the zero behind a bytes object is copied, too",
        "protocol/octets.pxd",
        "PyBytes_AS_STRING(second), PyBytes_GET_SIZE(second))",
        "PyBytes_AS_STRING(second), PyBytes_GET_SIZE(second) + 1)",
    ),
    Fault(
        "what is missing of a payload has 32 bits",
        "protocol/parsing.pxd",
        "cdef public Py_ssize_t payload_left",
        "cdef public int payload_left",
    ),
    Fault(
        "a bound is off by one",
        "protocol/messages.py",
        "if self._fragments >= self.max_fragments:",
        "if self._fragments > self.max_fragments:",
    ),
    Fault(
        "input that zlib has not taken yet is lost",
        "protocol/deflate.py",
        "self._position += len(some) - len(decompressor.unconsumed_tail)",
        "self._position += len(some)",
    ),
    Fault(
        "a window that the peer's has moved away from",
        "protocol/prepared.py",
        "if encoded[0] & extension.reserved_bits:",
        "if encoded[0] & extension.reserved_bits & 0x20:",
    ),
    Fault(
        "the length of a record is read beyond the end of what has arrived",
        "transports/tls.py",
        "if left < 5:",
        "if left < 4:",
    ),
    Fault(
        "the peer may break the protocol after our close frame",
        "protocol/states.py",
        "Event.VIOLATION: State.CLOSED,",
        "Event.CLOSE_SENT: State.CLOSED,",
    ),
    Fault(
        "round and round behind a newline at the end of a header",
        "handshake/extensions.py",
        r"[ \t]*(?:,|\Z)",
        r"[ \t]*(?:,|$)",
    ),
    Fault(
        "where a masked payload begins in the outbox is kept in a short",
        "protocol/frames.pxd",
        "@cython.locals(begin=Py_ssize_t, start=Py_ssize_t)",
        "@cython.locals(begin=Py_ssize_t, start=short)",
    ),
    Fault(
        "a length is added to a position before it is compared",
        "protocol/parsing.py",
        "whole = header.length <= end - start",
        "whole = start + header.length <= end",
    ),
    Fault(
        "zlib is asked for at most 0 bytes, which means no limit to it",
        "protocol/parsing.py",
        "self._decoder.read(max(min(room, _DECODED_PIECE), 1))",
        "self._decoder.read(min(room, _DECODED_PIECE))",
    ),
    Fault(
        "one place too few is given up, and read again",
        "protocol/messages.py",
        "del self.parts[: self._first]",
        "del self.parts[: self._first - 1]",
    ),
    Fault(
        "the wide step of masking also runs for the last three bytes",
        "protocol/masking.py",
        "while start + 4 <= stop:",
        "while start + 3 <= stop:",
    ),
    Fault(
        "a text that is not ASCII is counted as one byte a character",
        "protocol/octets.pxd",
        "(PyUnicode_GET_LENGTH(data) + 1) * PyUnicode_KIND(data)",
        "(PyUnicode_GET_LENGTH(data) + 1)",
    ),
    Fault(
        "what stands behind a final block is skipped",
        "protocol/deflate.py",
        "self._position += len(some) - len(decompressor.unused_data)",
        "self._position += len(some) - len(decompressor.unconsumed_tail)",
    ),
    Fault(
        "what is left of a record stays where it is, but more is put at its old end",
        "transports/tls.py",
        "        if self._start:\n            self._buffer[:left]",
        "        if self._start > left:\n            self._buffer[:left]",
    ),
]

# The targets that a fault in a module concerns, by the module's name; of others all of them.
CONCERNED = {
    "closing": ("sequences", "conversation"),
    "connection": ("sequences", "conversation"),
    "control_frames": ("sequences", "conversation"),
    "deflate": ("agreement", "sending", "sequences"),
    "extensions": ("extensions", "agreement", "sequences"),
    "frames": ("sequences", "headers"),
    "masking": ("masking", "sequences"),
    "messages": ("sequences", "conversation"),
    "octets": ("sequences", "sending", "headers"),
    "parsing": ("sequences", "conversation"),
    "pings": ("sequences", "conversation"),
    "prepared": ("sending", "sequences"),
    "sending": ("sending", "sequences", "conversation"),
    "states": ("sequences", "conversation"),
    "timers": ("sequences", "conversation"),
    "tls": ("records",),
}
