"""Coverage-guided fuzzing of everything that reads untrusted bytes.

    pip install -e '.[fuzz]'
    python -m tests.fuzz [TARGET ...] [--minutes 10]

Each target gets changed seeds, in a process that may use 2 GiB and ten seconds for an input. Every exception other than
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
"""The names in `fuzz_targets.FUZZED`, which is imported late, so that it is instrumented."""


ROUND = 100_000
"""Inputs for one process: instrumentation alone costs some kilobytes of memory for each, which are never freed."""


def run_here(name: str, arguments: Sequence[str]) -> None:
    """Fuzz in this process; it ends when all inputs are tried."""
    import atheris
    import torch  # noqa: F401 - imported first, so that it is not instrumented

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
    """Fuzz a target in a process of its own and print the result; returns whether nothing was found."""
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
        reports = re.findall(r"^#(\d+).*?cov: (\d+)", done.stderr, re.MULTILINE)
        if reports:
            inputs, coverage = inputs + int(reports[-1][0]), reports[-1][1]
        if done.returncode:
            log = done.stderr[-3000:]
    print(f"{name:10} {inputs:>12,} inputs, {coverage} branches, {'FOUND' if log else 'nothing found'}", flush=True)
    print(log, file=sys.stderr, end="")
    return not log


def main() -> None:
    """Fuzz the targets one after another."""
    if "--here" in sys.argv:
        run_here(sys.argv[1], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10, help="time for each target")
    options = parser.parse_args()
    names = options.targets or TARGETS
    with tempfile.TemporaryDirectory() as scratch:
        passed = [run(name, options.minutes, Path(scratch)) for name in names]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
