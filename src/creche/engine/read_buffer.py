"""The buffer that an event loop reads into."""

from __future__ import annotations

from anyio.lowlevel import RunVar

# Its size, in bytes.
_SIZE = 2**20

# One buffer per event loop, never per process: recv_into releases the GIL, and loops in two
# threads would read each other's bytes. Nothing keeps a view of it across a wait.
_buffer: RunVar[bytearray] = RunVar("creche_read_buffer")


def read_buffer() -> bytearray:
    """The buffer that this event loop reads into.

    To be called in a task: callbacks of an event loop are in none, and AnyIO then cannot tell which
    loop it is, unless anyio.run() has started it.
    """
    try:
        return _buffer.get()
    except LookupError:
        buffer = bytearray(_SIZE)
        _buffer.set(buffer)
        return buffer
