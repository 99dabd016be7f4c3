"""The compiled modules with AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of `src`.

`python sanitizers.py COMPILER DIRECTORY COMMAND...` builds them, shows that they end on faults that
were planted, and runs a command with them. clang is for fuzzing: it counts what is reached, too.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent

# What is fuzzed: every module of protocol/ and handshake/, and what else reads a peer's bytes. The
# tests, which gcc is for, want all that a wheel has.
FUZZED = ("creche.protocol.", "creche.handshake.", "creche.transports.tls")

# Python's own flags come first, among them -fwrapv or -fno-strict-overflow: with either of them an
# overflow is no fault, and is not reported. -g1 gives lines to the stack in a report.
FLAGS = (
    *("-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"),
    *("-fstrict-overflow", "-fno-wrapv", "-w"),
)
SANITIZERS = {
    "gcc": "-fsanitize=address,undefined",
    "clang": "-fsanitize=fuzzer-no-link,address,undefined",
}

# A call of proof.pyx, and what has to be said of it.
PROOFS = [
    ("overflow(2**63 - 1)", "signed integer overflow"),
    ("shift(255)", "left shift of 255 by 24 places"),
    ("beyond(bytes(100), 101)", "heap-buffer-overflow"),
]


class BuildSanitized(build_ext):
    """Builds in place and in parallel; what is newer than its source and declarations stays."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.inplace = True
        self.parallel = os.cpu_count()


def copy_source(directory: Path, source: Path = ROOT / "src") -> None:
    """What `build` needs, in a directory of its own; without what was built elsewhere."""
    ignored = shutil.ignore_patterns("*.so", "*.c", "*.egg-info", "__pycache__")
    shutil.copytree(source, directory / "src", ignore=ignored, dirs_exist_ok=True)
    shutil.copy(Path(__file__).parent / "proof.pyx", directory / "src")
    shutil.copy(ROOT / "pyproject.toml", directory)
    for name in "README.md", "LICENSE":
        shutil.copy(ROOT / name, directory)


def build(compiler: str, directory: Path) -> None:
    """Compile what is new in a copy of the source.

    Raises:
        subprocess.CalledProcessError: that failed; what the compiler said was printed.
    """
    command = (sys.executable, __file__, compiler, ".")
    environment = os.environ | {
        "CC": compiler,
        "PYTHONPATH": str(directory / "src"),
        "PYTHONWARNINGS": "ignore",  # that ext-modules in pyproject.toml are experimental
    }
    subprocess.run([*command, "--here"], cwd=directory, env=environment, check=True)


def _build_here(compiler: str) -> None:
    distribution = Distribution()
    distribution.parse_config_files()
    distribution.cmdclass["build_ext"] = BuildSanitized
    modules = distribution.ext_modules or []
    chosen = [each for each in modules if compiler == "gcc" or each.name.startswith(FUZZED)]
    distribution.ext_modules = [*chosen, Extension("proof", ["src/proof.pyx"])]
    for extension in distribution.ext_modules:
        extension.optional = False
        # The linker needs none of them: the sanitizers' libraries are loaded with the program.
        extension.extra_compile_args = [SANITIZERS[compiler], *FLAGS]
    distribution.verbose = False
    distribution.run_command("build_ext")


def environment(compiler: str, directory: Path) -> dict[str, str]:
    """What a program needs to run with the modules that were built in `directory`."""
    return os.environ | {
        "LD_PRELOAD": " ".join(_libraries(compiler)),
        # Python leaves much for the end of the process.
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        # Each object and each buffer is an allocation of its own, that a read can be beyond of.
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": f"{directory / 'src'}{os.pathsep}{TESTS}",
        "CRECHE_BUILD": "compiled",
    }


def _libraries(compiler: str) -> list[str]:
    if compiler == "gcc":
        names = ("libasan.so", "libubsan.so")
        command = [("gcc", f"-print-file-name={name}") for name in names]
        return [subprocess.check_output(each, text=True).strip() for each in command]
    # atheris brings libFuzzer, which its own module has to share with ours.
    found = importlib.util.find_spec("atheris")
    assert found is not None
    assert found.origin is not None
    return [str(Path(found.origin).parents[1] / "asan_with_fuzzer.so")]


def prove(environment: dict[str, str]) -> None:
    """Show that what runs so ends on what is wrong; exit where it does not."""
    for call, said in PROOFS:
        command = [sys.executable, "-c", f"import proof; proof.{call}"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode == 0 or said not in result.stderr:
            sys.exit(f"{call} has to end in {said!r}, but: {result.stderr[-2000:] or 'it did not'}")
    print(f"{len(PROOFS)} planted faults end the process, as they should", flush=True)


def main() -> None:
    compiler, name, *command = sys.argv[1:]
    if command == ["--here"]:
        _build_here(compiler)
        return
    directory = Path(name).absolute()
    copy_source(directory)
    build(compiler, directory)
    prove(environment(compiler, directory))
    if command:
        sys.exit(subprocess.run(command, env=environment(compiler, directory)).returncode)


if __name__ == "__main__":
    main()
