# cython: annotation_typing=False
"""Traffic: the messages and bytes of all connections of a server or a client."""

from __future__ import annotations


class Traffic:
    """Counts since the beginning; bytes are those of frames, below compression and above TLS."""

    def __init__(self) -> None:
        self.messages_received = 0
        self.messages_sent = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.skipped = 0
