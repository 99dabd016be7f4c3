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

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: tuple[Ping, ...] = ()

    def __len__(self) -> int:
        return len(self._waiting)

    def make_payload(self) -> bytes:
        """Four bytes that no waiting ping has."""
        payload = os.urandom(4)
        while payload in self:
            payload = os.urandom(4)
        return payload

    def add(self, payload: bytes, now: float) -> Ping:
        """A ping was sent."""
        ping = Ping(payload, now)
        self._waiting += (ping,)
        return ping

    def __contains__(self, payload: bytes) -> bool:
        return payload in [ping.payload for ping in self._waiting]

    def forget(self, payload: bytes) -> None:
        """Nobody waits for this ping any more."""
        self._waiting = tuple([ping for ping in self._waiting if ping.payload != payload])

    def answer(self, payload: bytes, now: float) -> tuple[Ping, ...]:
        """The pings that a pong answers: the one with its payload, and every earlier one."""
        payloads = [ping.payload for ping in self._waiting]
        if payload not in payloads:
            return ()
        count = payloads.index(payload) + 1
        answered, self._waiting = self._waiting[:count], self._waiting[count:]
        for ping in answered:
            ping.latency = now - ping.sent_at
        return answered
