"""What is fuzzed, and what each target begins with.

A target takes any bytes, and has to accept them or to raise what is documented, in bounded time and
memory; those that know what has to come out of it compare that, too. `python targets.py` gives
each target its seeds, and what else is in the folders named.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzzing import handshake_seeds as seeds
from fuzzing.compression import INFLATE_SEEDS, fuzz_agreement, fuzz_inflate
from fuzzing.conversations import SEEDS as CONVERSATION_SEEDS
from fuzzing.conversations import fuzz_conversation
from fuzzing.framing import fuzz_headers, fuzz_masking
from fuzzing.handshakes import (
    fuzz_extensions,
    fuzz_proxy,
    fuzz_request,
    fuzz_response,
    fuzz_uri,
)
from fuzzing.names import NAMES_SEEDS, fuzz_names
from fuzzing.raw_frames import SEEDS as FRAME_SEEDS
from fuzzing.raw_frames import fuzz_frames
from fuzzing.records import fuzz_records
from fuzzing.sequences import fuzz_sending, fuzz_sequences

# What makes a whole input of any bytes needs none to begin with; these are for `replay`.
ANY = [bytes([number]) * 4 for number in range(50)]

TARGETS: dict[str, tuple[Callable[[bytes], None], Sequence[bytes]]] = {
    "sequences": (fuzz_sequences, ANY),
    "sending": (fuzz_sending, ANY),
    "headers": (fuzz_headers, ANY),
    "masking": (fuzz_masking, ANY),
    "agreement": (fuzz_agreement, ANY),
    "records": (fuzz_records, ANY),
    "frames": (fuzz_frames, FRAME_SEEDS),
    "conversation": (fuzz_conversation, CONVERSATION_SEEDS),
    "inflate": (fuzz_inflate, INFLATE_SEEDS),
    "request": (fuzz_request, seeds.REQUEST_SEEDS),
    "response": (fuzz_response, seeds.RESPONSE_SEEDS),
    "extensions": (fuzz_extensions, seeds.EXTENSIONS_SEEDS),
    "uri": (fuzz_uri, seeds.URI_SEEDS),
    "names": (fuzz_names, NAMES_SEEDS),
    "proxy": (fuzz_proxy, seeds.PROXY_SEEDS),
}


def replay(folders: list[Path]) -> None:
    """Give each target its seeds, and the files of its folder in each of `folders`."""
    for name, (target, begins) in TARGETS.items():
        files = [file for folder in folders for file in sorted((folder / name).glob("*"))]
        inputs = [*begins, *(file.read_bytes() for file in files)]
        for data in inputs:
            target(data)
        print(f"{name}: {len(inputs)} inputs", flush=True)


if __name__ == "__main__":
    replay([Path(argument) for argument in sys.argv[1:]])
