"""ServerStats: what a server has and has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerStats:
    """What a server has and has seen, at one moment.

    Attributes:
        open: open connections.
        handshakes: opening handshakes in progress.
        accepted: TCP connections since the start; so are all that follow.
        opened: opening handshakes that succeeded.
        refused: opening handshakes that did not.
        refused_by_status: how many of those were answered with which status.
        closed_by_code: how many connections have ended with which close code.
        failed: handlers that raised.
        messages_received: messages that arrived whole.
        messages_sent: messages that were committed.
        bytes_received: bytes of frames.
        bytes_sent: bytes of frames that the kernel has taken.
        skipped: messages that a broadcast did not send to a slow connection.
        buffered: bytes that connections keep now, received and to be sent. Those with less than
            4 KiB are not counted; a payload that waits for many is counted once.
    """

    open: int = 0
    handshakes: int = 0
    accepted: int = 0
    opened: int = 0
    refused: int = 0
    refused_by_status: Mapping[int, int] = field(default_factory=dict)
    closed_by_code: Mapping[int, int] = field(default_factory=dict)
    failed: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    skipped: int = 0
    buffered: int = 0
