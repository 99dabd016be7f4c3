"""The Autobahn test suite: `nox -s autobahn`, which installs its wstest under Python 2.7.

creche as a server is asked by wstest's client, and creche as a client asks wstest's server; both
on asyncio and on Trio. Printed is how many cases had which result. Anything but OK fails, unless
it is in EXPECTED. `--full` runs all 517 cases, which takes half an hour; without it, it is about
360 of them, of every kind, which take a few minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

import creche
from creche.protocol import COMPILED
from support import BACKENDS, echo, free_port

# How the echo differs from a server with default options: some cases send 16 MiB, or 65,537
# fragments.
OPTIONS: Any = {"max_size": 2**25, "max_fragments": 2**17}

# The cases that have no strict result, by what they are about.
EXPECTED = {
    "7.1.6": "INFORMATIONAL",  # 256 KiB, a close frame, a ping: how much was still read
    "7.13.1": "INFORMATIONAL",  # a close code above 4999, of which the standard says nothing
    "7.13.2": "INFORMATIONAL",  # the same, the largest that there can be
}

# Patterns of wstest's: anchored at the start only. 12 and 13 are 90 and 126 cases of compression,
# of which these are the smallest and largest messages, and those in many frames.
CHOICE = ["[1-9].*", "10.*", "12.*.(1|2|3|5|11)$", "13.*.(1|2|3|5|11)$"]
FULL = ["*"]

# wstest listens on every address, whatever it is told.
ON_LOOPBACK = """
import sys
from twisted.internet import reactor
listen = reactor.listenTCP
reactor.listenTCP = lambda port, factory, *_: listen(port, factory, interface="127.0.0.1")
from autobahntestsuite import wstest
sys.exit(wstest.run())
"""

LIMIT = 3600  # seconds for one role on one backend


class Failed(Exception):
    """wstest could not do its work."""


# creche's side


async def serve() -> None:
    async with creche.serving(echo, "127.0.0.1", **OPTIONS) as server:
        print(server.addresses[0][1], flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


async def ask(url: str, agent: str) -> None:
    """Run every case of a server of wstest."""
    async with creche.connect(f"{url}/getCaseCount") as ws:
        count = int(await ws.receive())
    print(f"Ok, will run {count} test cases", flush=True)
    for case in range(1, count + 1):
        try:
            async with creche.connect(
                f"{url}/runCase?case={case}&agent={agent}", close_timeout=2, **OPTIONS
            ) as ws:
                await echo(ws)
        except creche.ConnectionClosed:
            pass  # what many cases are about
    async with creche.connect(f"{url}/updateReports?agent={agent}") as ws:
        await creche.discard(ws)


@contextmanager
def process(*command: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def this_file(*arguments: object) -> list[object]:
    return [sys.executable, __file__, *arguments]


# The two roles: each runs wstest and returns how many cases it announced


def as_server(python: str, backend: str, agent: str, cases: list[str], directory: Path) -> int:
    with process(*this_file("serve", backend)) as server:
        assert server.stdout is not None
        url = f"ws://127.0.0.1:{int(server.stdout.readline())}"
        spec = {"servers": [{"url": url, "agent": agent}]}
        path = write_spec(directory, cases, spec)
        wstest = subprocess.run(
            [python, "-E", "-c", ON_LOOPBACK, "-m", "fuzzingclient", "-s", str(path)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        return announced(wstest.stdout + wstest.stderr)


def as_client(python: str, backend: str, agent: str, cases: list[str], directory: Path) -> int:
    port = free_port()
    path = write_spec(directory, cases, {"url": f"ws://127.0.0.1:{port}", "webport": 0})
    mode = ("-m", "fuzzingserver", "-s", path, "--webport", 0)
    with process(python, "-E", "-u", "-c", ON_LOOPBACK, *mode) as wstest:
        assert wstest.stdout is not None
        for line in wstest.stdout:
            if "Ok, will run" in line:
                break
        else:
            raise Failed("wstest has not started")
        output: list[str] = []
        reader = threading.Thread(target=output.extend, args=(wstest.stdout,))
        reader.start()  # or it would wait for us
        asker = subprocess.run(
            list(map(str, this_file("ask", backend, f"ws://127.0.0.1:{port}", agent))),
            stdout=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
        )
        wstest.terminate()
        reader.join(10)
        if asker.returncode:
            raise Failed(f"the client failed:\n{''.join(output)}")
        return announced(asker.stdout)


def write_spec(directory: Path, cases: list[str], spec: dict[str, Any]) -> Path:
    path = directory / "spec.json"
    everything = {"outdir": str(directory), "cases": cases, "exclude-cases": []}
    path.write_text(json.dumps(spec | everything))
    return path


def announced(output: str) -> int:
    found = re.search(r"Ok, will run (\d+) test cases", output)
    if found is None:
        raise Failed(f"wstest has not run:\n{output}")
    return int(found[1])


ROLES: dict[str, Callable[[str, str, str, list[str], Path], int]] = {
    "server": as_server,
    "client": as_client,
}


def run(python: str, role: str, backend: str, cases: list[str]) -> dict[str, str]:
    """The results of the cases of one role on one backend, by their numbers."""
    agent = f"creche_{role}_{backend}"
    with tempfile.TemporaryDirectory() as directory:
        count = ROLES[role](python, backend, agent, cases, Path(directory))
        index = json.loads((Path(directory) / "index.json").read_text())
    results = {case: result["behavior"] for case, result in index[agent].items()}
    for case, result in index[agent].items():
        # How the connection was closed counts as much; this one only says who closed TCP.
        if result["behaviorClose"] not in ("OK", "INFORMATIONAL", "FAILED BY CLIENT"):
            results[case] = f"close: {result['behaviorClose']}"
    if len(results) != count:
        raise Failed(f"{len(results)} results of {count} cases")
    return results


def number_of(case: str) -> list[int]:
    return list(map(int, case.split(".")))


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the Autobahn test suite.")
    parser.add_argument("--python", required=True, help="the Python that has wstest")
    parser.add_argument("--role", action="append", choices=ROLES)
    parser.add_argument("--backend", action="append", choices=BACKENDS)
    parser.add_argument("--full", action="store_true", help="all 517 cases")
    parser.add_argument("--case", action="append", help="a pattern of wstest's")
    given = parser.parse_args()
    cases = given.case or (FULL if given.full else CHOICE)
    runs = [
        (role, backend)
        for role in given.role or ROLES
        for backend in given.backend or ["asyncio", "trio"]
    ]
    failed = False
    print(f"creche is {'compiled' if COMPILED else 'pure Python'}", flush=True)
    with ThreadPoolExecutor(2) as pool:
        all_results = pool.map(lambda each: run(given.python, each[0], each[1], cases), runs)
        for (role, backend), results in zip(runs, all_results, strict=True):
            counts = ", ".join(f"{n} {result}" for result, n in Counter(results.values()).items())
            print(f"{role} on {backend}: {len(results)} cases: {counts}", flush=True)
            for case in sorted(results, key=number_of):
                if results[case] != EXPECTED.get(case, "OK"):
                    print(f"  {case}: {results[case]}", flush=True)
                    failed = True
    sys.exit(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        anyio.run(serve, **BACKENDS[sys.argv[2]])
    elif sys.argv[1:2] == ["ask"]:
        anyio.run(ask, sys.argv[3], sys.argv[4], **BACKENDS[sys.argv[2]])
    else:
        main()
