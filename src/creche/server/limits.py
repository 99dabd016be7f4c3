"""What one client may do: connections at a time, and opening handshakes in a time."""

from __future__ import annotations

import math
from collections import Counter

# A client may save the opening handshakes of so many seconds, and make them at once.
_BURST_SECONDS = 10.0

# So many clients are remembered before those are forgotten that have been quiet.
_REMEMBERED = 2**12


class ClientLimits:
    """Counts what each client has, and has asked for.

    Args:
        max_connections: open at a time; None for any number.
        handshake_rate: opening handshakes a second, on average; None for any number.
    """

    def __init__(self, max_connections: int | None, handshake_rate: float | None) -> None:
        self._max_connections = max_connections
        self._rate = handshake_rate
        self._connections: Counter[str] = Counter()
        # When each client will have saved the handshakes of a whole burst again.
        self._full_at: dict[str, float] = {}
        self._forget_at = _REMEMBERED

    def handshake(self, client: str, now: float) -> float:
        """A client asks; returns the seconds after which it may, 0 if it may now."""
        if self._rate is None:
            return 0
        cost = 1 / self._rate
        burst = max(_BURST_SECONDS, cost)
        full_at = max(self._full_at.get(client, now), now) + cost
        if full_at > now + burst:
            return math.ceil(full_at - now - burst)
        self._full_at[client] = full_at
        if len(self._full_at) > self._forget_at:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
            self._forget_at = max(2 * len(self._full_at), _REMEMBERED)
        return 0

    def connect(self, client: str) -> bool:
        """One more connection of a client; whether it may."""
        if self._connections[client] == self._max_connections:
            return False
        self._connections[client] += 1
        return True

    def disconnect(self, client: str) -> None:
        """One less."""
        self._connections[client] -= 1
        if not self._connections[client]:
            del self._connections[client]
