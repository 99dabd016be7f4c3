# cython: annotation_typing=False
"""The states of a connection, and what moves it from one to another (RFC 6455 7.1).

The members that are asked for often have names of their own: to look one up in its class calls a
Python function before 3.12, and to hash one always does, unless the class says otherwise.
"""

from __future__ import annotations

from enum import Enum


class Side(Enum):
    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    """Where the connection stands (RFC 6455 7.1)."""

    OPEN = "open"
    CLOSING = "closing"  # our close frame is sent, the peer's has not come
    FAILING = "failing"  # the peer broke the protocol and has not been told yet
    CLOSED = "closed"  # nothing more is sent or read as frames; the transport is still to end
    LOST = "lost"  # the transport is of no more use

    __hash__ = object.__hash__


OPEN, CLOSING, FAILING, CLOSED, LOST = State


class Event(Enum):
    CLOSE_SENT = "close sent"
    CLOSE_RECEIVED = "close received"
    VIOLATION = "violation"
    TRANSPORT_LOST = "transport lost"

    __hash__ = object.__hash__


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.OPEN: {
        Event.CLOSE_SENT: State.CLOSING,
        Event.CLOSE_RECEIVED: State.CLOSED,  # answered in the same step
        Event.VIOLATION: State.FAILING,
        Event.TRANSPORT_LOST: State.LOST,
    },
    State.CLOSING: {
        Event.CLOSE_RECEIVED: State.CLOSED,
        Event.VIOLATION: State.CLOSED,  # our close frame is out: there is nothing left to say
        Event.TRANSPORT_LOST: State.LOST,
    },
    State.FAILING: {
        Event.CLOSE_SENT: State.CLOSED,
        Event.TRANSPORT_LOST: State.LOST,
    },
    State.CLOSED: {
        Event.TRANSPORT_LOST: State.LOST,
    },
    State.LOST: {},
}


class Outcome(Enum):
    """How the connection ended."""

    NORMAL = "normal"
    ABNORMAL = "abnormal"


ENDED_WELL, ENDED_BADLY = Outcome
