"""Telling what happens to connections and on them: to a trace callback, and to the log."""

from __future__ import annotations

import logging
import weakref
from typing import Any, Protocol

from creche.options.declared import Trace
from creche.protocol.escaping import escape
from creche.protocol.frames import BINARY, CLOSE, OPCODES

_OPCODE = 0x0F


class Logging(Protocol):
    """What is told of: a WebSocket."""

    @property
    def logger(self) -> Any:
        """Where to."""


def call_trace(trace: Trace | None, logger: Any, name: str, **info: Any) -> None:
    """Tell of an event. What the callback raises is logged: it may not harm a connection."""
    if trace is not None:
        try:
            trace(name, info)
        except Exception:
            logger.exception("trace raised at %s", name)


def frame_observer(told_of: Logging, logger: logging.Logger, trace: Trace | None) -> Any:
    """What a protocol.Connection tells its frames; None if nobody wants to know."""
    if trace is None and not logger.isEnabledFor(logging.DEBUG):
        return None
    reference = weakref.ref(told_of)

    def observe(sent: bool, opcode: int, length: int, fin: bool, payload: bytes) -> None:
        ws = reference()
        if ws is None:
            return
        if logger.isEnabledFor(logging.DEBUG):
            text = describe_frame(opcode, length, fin, payload)
            ws.logger.debug("%s %s", ">" if sent else "<", text)
        call_trace(
            trace,
            ws.logger,
            "frame.sent" if sent else "frame.received",
            websocket=ws,
            opcode=OPCODES[opcode & _OPCODE],
            length=length,
            fin=fin,
            compressed=opcode & ~_OPCODE != 0,
        )

    return observe


def describe_frame(opcode: int, length: int, fin: bool, payload: bytes) -> str:
    """A frame in a line: its opcode, the beginning of its payload, and its length.

    Args:
        opcode: with its reserved bits; with one of those the payload is not shown.
        length: of the payload, in bytes.
        fin: whether it is the last of its message.
        payload: the beginning of the payload, or all of it.
    """
    kind = opcode & _OPCODE
    parts = [OPCODES[kind]]
    if opcode != kind:
        parts.append("(changed by an extension)")
    elif kind == CLOSE and len(payload) == length:
        parts.append(_describe_close(payload))
    elif payload:
        parts.append(_shown(payload, kind == BINARY) + ("..." if len(payload) < length else ""))
    parts.append(f"[{length} bytes{'' if fin else ', to be continued'}]")
    return " ".join(part for part in parts if part)


def _describe_close(payload: bytes) -> str:
    if len(payload) < 2:
        return ""
    code = int.from_bytes(payload[:2])
    return f"{code} {_shown(payload[2:], False)}".rstrip()


def _shown(payload: bytes, binary: bool) -> str:
    if binary:
        return payload.hex(" ")
    return escape(payload.decode("utf-8", "backslashreplace"))
