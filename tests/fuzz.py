"""Coverage-guided fuzzing of everything that reads bytes of strangers.

    pip install -e '.[fuzz]'
    python -m tests.fuzz [TARGET ...] [--minutes 10]

Each target gets changed seeds, in a process that may use 2 GiB and ten seconds an input. Whatever it raises but a
`ClientError` is a finding, and so is a hang or too much memory: the input is kept and the exit status is 1.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

TARGETS = ("recordio", "protobuf", "archive", "ndarrays", "config", "importer")
"""As `fuzz_targets.FUZZED` has them, which is imported late, to be watched."""


ROUND = 100_000
"""Inputs that one process gets: watching alone costs some kilobytes of memory each, which never come back."""


def run_here(name: str, arguments: Sequence[str]) -> None:
    """Fuzz in this process, which this ends."""
    import atheris
    import torch  # noqa: F401 - before, so that it is left as it is

    with atheris.instrument_imports(include=["seqwright", "tarfile", "yaml", "json"]):
        from seqwright.errors import ClientError
        from tests.fuzz_targets import FUZZED

    target = FUZZED[name].target

    def once(data: bytes) -> None:
        with contextlib.suppress(ClientError):
            target(data)

    atheris.Setup([sys.argv[0], *arguments], once)
    atheris.Fuzz()


def run(name: str, minutes: float, folder: Path) -> bool:
    """Fuzz a target in a process of its own, and print what came of it."""
    from tests.fuzz_targets import FUZZED

    corpus = folder / name
    corpus.mkdir()
    for number, seed in enumerate(FUZZED[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    until, inputs, coverage, log = time.monotonic() + minutes * 60, 0, "0", ""
    while not log and (left := round(until - time.monotonic())) > 0:
        limits = [f"-max_total_time={left}", f"-runs={ROUND}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=65536"]
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            name,
            "--here",
            *limits,
            f"-artifact_prefix={name}-",
            str(corpus),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        told = re.findall(r"^#(\d+).*?cov: (\d+)", done.stderr, re.MULTILINE)
        if told:
            inputs, coverage = inputs + int(told[-1][0]), told[-1][1]
        if done.returncode:
            log = done.stderr[-3000:]
    print(f"{name:10} {inputs:>12,} inputs, {coverage} branches, {'FOUND' if log else 'nothing found'}", flush=True)
    print(log, file=sys.stderr, end="")
    return not log


def main() -> None:
    """Fuzz one target after the other."""
    if "--here" in sys.argv:
        run_here(sys.argv[1], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10, help="time for each")
    options = parser.parse_args()
    names = options.targets or TARGETS
    with tempfile.TemporaryDirectory() as scratch:
        well = [run(name, options.minutes, Path(scratch)) for name in names]
    sys.exit(not all(well))


if __name__ == "__main__":
    main()
