# cython: annotation_typing=False
"""What a peer has said, in a text that somebody reads: in a log, on a terminal, in a traceback.

Whoever puts a peer's text into one of ours does it by these. A line feed would make a line of its
own in a log, an escape sequence moves a terminal's cursor or does worse, and a bidirectional
control changes the order of all that follows.
"""

from __future__ import annotations

# So much of a peer's text is shown, in characters.
MAX_SHOWN = 200

# The longest text that may quote more than once, such as that of an exception, in characters.
MAX_TEXT = 1000


def escape(text: str, limit: int | None = MAX_SHOWN, keep: str = "") -> str:
    """A text with only printable characters; others are shown as in a literal of Python.

    What is not printable: controls (C0, DEL and C1), separators but the space, formats such as
    bidirectional controls, lone surrogates, and what has no character. Doing it again changes
    nothing.

    Args:
        text: what a peer has said.
        limit: cut it after so many characters; None for all of it.
        keep: characters that stay as they are, though they are not printable.
    """
    cut = limit is not None and len(text) > limit
    if cut:
        text = text[:limit]
    if not text.isprintable():
        text = "".join([c if c.isprintable() or c in keep else _escaped(c) for c in text])
    return text + "..." if cut else text


def quote(text: str) -> str:
    """A text in quotes, escaped: where its ends matter."""
    return repr(text[:MAX_SHOWN]) + ("..." if len(text) > MAX_SHOWN else "")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
