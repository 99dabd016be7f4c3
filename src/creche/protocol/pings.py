# cython: annotation_typing=False
"""Pings that we sent, and the pongs that answer them (RFC 6455 5.5.2 and 5.5.3)."""

from __future__ import annotations

import os


class Ping:
    """A ping that we sent.

    Attributes:
        payload: its application data.
        sent_at: the time it was sent.
        latency: seconds until its pong, None until that came.
    """

    __slots__ = ("latency", "payload", "sent_at")

    def __init__(self, payload: bytes, sent_at: float) -> None:
        self.payload = payload
        self.sent_at = sent_at
        self.latency: float | None = None


class Pings:
    """The pings without an answer, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, Ping] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def make_payload(self) -> bytes:
        """Four bytes that no waiting ping has."""
        payload = os.urandom(4)
        while payload in self._waiting:
            payload = os.urandom(4)
        return payload

    def add(self, payload: bytes, now: float) -> Ping:
        """A ping was sent."""
        ping = self._waiting[payload] = Ping(payload, now)
        return ping

    def __contains__(self, payload: bytes) -> bool:
        return payload in self._waiting

    def forget(self, payload: bytes) -> None:
        """Nobody waits for this ping any more."""
        self._waiting.pop(payload, None)

    def answer(self, payload: bytes, now: float) -> list[Ping]:
        """The pings that a pong answers: the one with its payload, and every earlier one."""
        answered = []
        while payload in self._waiting:
            ping = self._waiting.pop(next(iter(self._waiting)))
            ping.latency = now - ping.sent_at
            answered.append(ping)
        return answered
