"""Scenarios: what a peer sends, how it arrives, and what is done in between.

Most of what it sends is as it should be, so that the rest is met in every state. Whatever has a
length has one of BOUNDARIES or is short; what a header declares need not be there.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field
from random import Random
from typing import Any

from fuzzing.choices import Choices, one_of, rarely
from fuzzing.reference import BINARY, CLOSE, CONTINUATION, LONGEST, PING, PONG, RSV1, TEXT

BOUNDARIES = (
    *(0, 1, 2, 3, 124, 125, 126, 127, 128, 255, 256, 65535, 65536, 65537),
    *(2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 1),
    *(2**62 - 1, 2**62, 2**63 - 2**16, 2**63 - 20, 2**63 - 2, 2**63 - 1),
    *(2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1),
)
# Those that a whole payload may have; the large ones take time.
SIZES = (0, 0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 124, 125, 126, 127, 128, 255, 256, 1000, 1001)
LARGE = (2**14 - 1, 2**14, 2**14 + 1, 2**15 - 1, 2**15, 65535, 65536, 65537, 200_000)
# Bytes that the peer's side has taken before.
DELIVERED = (0, 0, 2**31 - 100, 2**32 - 100, 2**62)

KEYS = (b"\1\2\3\4", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\0\x7f\1", b"\0\0\0\1")
OPCODES = (TEXT, BINARY, TEXT, BINARY, CONTINUATION, PING, PONG, CLOSE)
CLOSE_CODES = (1000, 1001, 1003, 1004, 1005, 1006, 1007, 1014, 1015, 2999, 3000, 4999, 5000, 0)
OCTETS = bytes(range(256))
TEXTS = ("é☃x🐍", "plain ASCII ", "\0\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff")
NO_TEXTS = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x98",
    b"\xf0\x9f\x90",
)


@dataclass
class Scenario:
    """What happens to one connection.

    Attributes:
        client: whether it is a client's.
        deflate: the arguments of Deflate; None without permessage-deflate.
        options: those of Connection.
        observed: whether somebody looks at each frame.
        taking: how its messages are taken: "next", "part", or "either".
        delivered: bytes that the peer's side has taken before.
        steps: what happens, in order: its name and its argument.
    """

    client: bool
    deflate: tuple[int, bool, int, bool, int, int, int] | None
    options: dict[str, Any]
    observed: bool
    taking: str
    delivered: int
    steps: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def max_size(self) -> int | None:
        """The largest message that may be taken; in parts it may be any."""
        if self.taking == "part":
            return None
        size: int | None = self.options["max_size"]
        return LONGEST if size is None else size


class Maker:
    """Makes a scenario by choices."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        client, deflated = bool(self.number(1)), bool(self.number(1))
        self.scenario = Scenario(
            client=client,
            deflate=(
                *(self.number(15, 9), bool(self.number(1))),
                *(self.number(15, 9), bool(self.number(1))),
                *(6, self.number(9, 1), self.pick((0, 20, 128))),
            )
            if deflated
            else None,
            options={
                "max_size": self.pick((None, None, 2**20, 1, 125, 126, 127, 1000, 65535, 65536)),
                "max_fragments": self.pick((None, None, 2**17, 1, 2, 3)),
                "max_queue": self.pick((None, 64, 64, 1, 2, 5)),
                "max_queue_bytes": self.pick((None, 2**20, 2**20, 1, 100, 126, 65536)),
                "write_limit": self.pick((2**16, 2**16, 0, 100)),
                "ping_interval": self.pick((None, None, 20)),
                "message_timeout": self.pick((None, 60)),
            },
            observed=bool(self.number(1)),
            taking=self.pick(("next", "next", "part", "either")),
            delivered=self.pick(DELIVERED),
        )
        self.masked = not client
        self.in_message = False
        self.compressor: Any = None
        # How often something is done in between, and how often something is wrong.
        self.busy = self.pick((2, 6, 30))
        self.wild = self.pick((8, 30, 1000))

    def number(self, most: int, least: int = 0) -> int:
        return self.choices.number(least, most)

    def pick(self, values: Any) -> Any:
        return one_of(self.choices, values)

    def rarely(self, times: int) -> bool:
        return rarely(self.choices, times)

    # What is sent

    def size(self) -> int:
        if self.rarely(40):
            return int(self.pick(LARGE))
        return int(self.pick(SIZES)) if self.number(2) else self.number(300)

    def content(self, text: bool, size: int) -> bytes:
        if not text:
            start = self.number(255)
            if start % 8 == 0:
                return Random(start).randbytes(size)  # nothing that is compressed to less
            return OCTETS[start:] + OCTETS * (size // 256 + 1)
        character = self.pick(TEXTS)
        encoded: bytes = (character * (size // len(character) + 1))[:size].encode()
        if self.rarely(self.wild):
            bad = self.pick(NO_TEXTS)
            place = self.number(min(len(encoded), 2**16))
            encoded = encoded[:place] + bad + encoded[place:]
        return encoded

    def header(self, opcode: int, length: int, fin: bool = True, reserved: int = 0) -> bytes:
        """A header with any length; one that is too large for its field is cut."""
        first = opcode | reserved | (0x80 if fin else 0)
        masked = self.masked
        field = 0 if length < 126 else 2 if length < 2**16 else 8
        if self.rarely(self.wild):
            match self.number(4):
                case 0:
                    first ^= 1 << self.number(7)
                case 1:
                    masked = not masked
                case 2:
                    field = self.pick((2, 8))
                case 3:
                    first = self.number(255)
        second = 0x80 if masked else 0
        second |= {0: min(length, 125), 2: 126, 8: 127}[field]
        declared = (length % 2 ** (8 * field)).to_bytes(field, "big") if field else b""
        return bytes([first, second]) + declared

    def frame(self, opcode: int, payload: bytes, fin: bool = True, reserved: int = 0) -> bytes:
        return self.header(opcode, len(payload), fin, reserved) + self.masked_payload(payload)

    def masked_payload(self, payload: bytes) -> bytes:
        """The masking key, if there is to be one, and the payload under it."""
        if not self.masked:
            return payload
        key: bytes = self.pick(KEYS) if self.number(2) else self.choices.octets(4)
        repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
        number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
        return key + number.to_bytes(len(payload), "big")

    def control(self) -> bytes:
        opcode = self.pick((PING, PING, PONG))
        size = self.pick((0, 1, 2, 4, 124, 125, 125, self.number(125)))
        return self.frame(opcode, self.content(False, size)[:size])

    def close(self) -> bytes:
        if self.rarely(4):
            size = self.pick((0, 1, 2, 125))
            return self.frame(CLOSE, self.content(False, size)[:size])
        reason = self.content(True, self.number(30))[:123]
        return self.frame(CLOSE, self.pick(CLOSE_CODES).to_bytes(2, "big") + reason)

    def compress(self, payload: bytes) -> bytes:
        assert self.scenario.deflate is not None
        _, _, bits, takeover, _, _, _ = self.scenario.deflate
        if self.compressor is None or not takeover:
            self.compressor = zlib.compressobj(wbits=-bits)
        compressor: Any = self.compressor
        out: bytes = compressor.compress(payload)
        if self.rarely(6):
            # A final block, and perhaps empty ones behind it.
            self.compressor = None
            empty: int = self.pick((0, 0, 1, 9))
            out += compressor.flush()
            return out + b"\3\0" * empty
        out = (out + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        if self.rarely(self.wild):
            place = self.number(min(len(out), 2**16))
            out = out[:place] + self.choices.octets(2) + out[place:]
        return out

    def message(self) -> bytes:
        compressed = self.scenario.deflate is not None and bool(self.number(2))
        text, size = bool(self.number(1)), self.size()
        if compressed and self.rarely(12):
            size = self.pick(LARGE)
        payload = self.content(text, size)[: None if text else size]
        reserved = 0
        if compressed:
            payload, reserved = self.compress(payload), RSV1
        opcode = TEXT if text else BINARY
        out = b""
        if self.rarely(3):
            for _ in range(self.pick((1, 1, 2, 3))):
                place = self.number(min(len(payload), 2**16))
                out += self.frame(opcode, payload[:place], False, reserved)
                payload = payload[place:]
                opcode, reserved = CONTINUATION, 0
                if self.rarely(3):
                    out += self.control()
            if self.rarely(20):
                return out  # and it is never finished
        return out + self.frame(opcode, payload, True, reserved)

    def declared(self) -> bytes:
        """A frame whose header declares more than there is, or as much, or less."""
        opcode = self.pick(OPCODES)
        length = self.pick(BOUNDARIES)
        given = self.number(20)
        out = self.header(opcode, length, bool(self.number(3)))
        if self.scenario.deflate is not None and self.rarely(4):
            out = bytes([out[0] | RSV1]) + out[1:]
        payload = self.choices.octets(min(given, length))
        if length < 2**17 and self.number(2):
            payload = self.content(opcode == TEXT, length)[:length]
        return out + self.masked_payload(payload)

    def item(self) -> bytes:
        number = self.number(31)
        if number < 17:
            return self.message()
        if number < 22:
            return self.control()
        if number < 23 and self.rarely(3):
            return self.close()
        if number < 25 and self.rarely(self.wild):
            return self.choices.octets(self.number(20))
        if number < 26:
            # So many that others get a turn in between.
            times: int = self.pick((5, 70, 130))
            return self.frame(self.pick((PING, BINARY)), b"x") * times
        if number < 27:
            return self.frame(CONTINUATION, b"x", False)
        return self.declared()

    # What is done

    def pieces(self, data: bytes) -> list[bytes]:
        """The bytes, whole or cut; every few bytes, or anywhere, or close to an end."""
        if not self.number(2) or not data:
            return [data]
        if self.rarely(16) and len(data) < 100:
            return [data[place : place + 1] for place in range(len(data))]
        ends = set()
        for _ in range(self.number(3)):
            place = self.number(min(len(data), 2**16))
            ends.add(self.pick((place, min(place, 20), max(0, len(data) - 1 - place % 20))))
        places = [0, *sorted(ends), len(data)]
        return [data[start:stop] for start, stop in itertools.pairwise(places)]

    def send(self) -> None:
        how = self.pick(("message", "message", "frame", "fragments", "prepared", "plain"))
        text, size = bool(self.number(1)), self.size()
        content = self.content(text, size)[: None if text else size]
        form = self.number(2)
        self.scenario.steps.append(("send", (how, text, content, form)))

    def act(self) -> None:
        """Something that the application, the transport or the clock does."""
        steps = self.scenario.steps
        match self.number(15):
            case 0 | 1 | 2 | 3:
                steps.append((self.scenario.taking, None))
            case 4:
                steps.append(("resume", None))
            case 5 | 6 | 7:
                for _ in range(self.pick((1, 1, 2, 4))):
                    self.send()
            case 8:
                size = self.pick((0, 1, 4, 125, 126))
                steps.append((self.pick(("ping", "pong")), bytes(range(size))))
            case 9:
                steps.append(("wait", self.pick((0.0, 1.0, 11.0, 25.0, 61.0))))
            case 10 | 11:
                steps.append(("output", self.pick((1, 10, 125, 2**16, 2**20))))
            case 12 if self.rarely(8):
                steps.append(("close", self.pick((1000, 1001, 4000))))
            case 13 if self.rarely(16):
                steps.append(("discard", None))
            case 14 if self.rarely(16):
                steps.append(("eof", None))
            case 14:
                steps.append(("flood", self.pick((2**10, 2**20, 2**20 + 1))))
            case 15 if self.rarely(4):
                steps.append(("keepalive", self.pick((None, 1.0, 20.0))))
            case _:
                steps.append(("take", None))

    def make(self) -> Scenario:
        for _ in range(self.number(4, 1)):
            data = b"".join([self.item() for _ in range(self.number(6, 1))])
            for piece in self.pieces(data):
                # As bytes, as all of a bytearray, or in front of what another connection read.
                behind = self.pick((b"", self.choices.octets(8), b"\xff" * 70))
                form = self.pick(("bytes", "whole", "shared"))
                self.scenario.steps.append(("receive", (piece, form, behind)))
                while self.rarely(self.busy):
                    self.act()
                if self.busy == 2:
                    self.act()
        self.scenario.steps.append(("drain", self.scenario.taking))
        return self.scenario

    def make_sending(self) -> Scenario:
        """One in which only we say something."""
        for _ in range(self.number(8, 1)):
            self.send()
        return self.scenario


def make_scenario(choices: Choices) -> Scenario:
    return Maker(choices).make()


def make_sending(choices: Choices) -> Scenario:
    return Maker(choices).make_sending()
