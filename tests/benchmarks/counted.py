"""Runs another program here so that it does the same each time: `python counted.py PROGRAM ...`.

What depends on the clock, on chance or on when the garbage collector last looked at everything
would make its count of instructions differ from run to run.
"""

from __future__ import annotations

import gc
import itertools
import runpy
import sys
import time
from functools import partial
from importlib import import_module

# Each look at the clock takes a microsecond. Under callgrind all is some fifty times slower, and
# whoever asks how long something took would get another answer than on a bare machine.
TICK = 1e-6


def main() -> None:
    program, library, loop = sys.argv[1:4]
    # A C function, before anybody has imported another.
    time.monotonic = time.perf_counter = partial(next, itertools.count(1000.0, TICK))
    import_module(library)
    if loop == "trio":
        import trio

        # Trio shuffles the tasks that are ready.
        trio._core._run._r.seed(0)
    # What the imports have left is never looked at again, and what lives long, only once.
    gc.freeze()
    gc.set_threshold(700, 2**30)
    del sys.argv[0]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
