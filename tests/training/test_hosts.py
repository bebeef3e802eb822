"""Two hosts, each in a network namespace of its own, one of which is cut off."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sagemaker.test_training import make_root, write_config

TIMEOUT = 15
"""Seconds that the hosts wait for each other."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def two_hosts() -> Iterator[dict[str, str]]:
    """Two namespaces joined by a cable: the namespace of each address."""
    mark = uuid.uuid4().hex[:6]
    spaces = {"10.231.7.1": f"sw{mark}a", "10.231.7.2": f"sw{mark}b"}
    with contextlib.ExitStack() as stack:
        for space in spaces.values():
            ip("netns", "add", space)
            stack.callback(ip, "netns", "delete", space)
        first, second = spaces.values()
        ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for address, space in spaces.items():
            ip("-n", space, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", space, "link", "set", device, "up")
        yield spaces


def may_make_namespaces() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    try:
        with two_hosts():
            return True
    except subprocess.CalledProcessError:
        return False


def start(root: Path, space: str) -> "subprocess.Popen[str]":
    program = [sys.executable, "-m", "seqwright", "sagemaker", "train", "--root", str(root), "--timeout", str(TIMEOUT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["ip", "netns", "exec", space, *program], stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.skipif(not may_make_namespaces(), reason="network namespaces cannot be made here")
def test_a_host_that_is_cut_off_is_named_and_training_goes_on_when_both_are_back(tmp_path: Path) -> None:
    with two_hosts() as spaces:
        roots = []
        for address in spaces:
            (tmp_path / address).mkdir()
            root = make_root(tmp_path / address, max_num_batches=100_000)
            (root / "checkpoints").mkdir()
            write_config(root, "resourceconfig", {"current_host": address, "hosts": list(spaces)})
            roots.append(root)
        jobs = [start(root, space) for root, space in zip(roots, spaces.values(), strict=True)]
        checkpoints = roots[0] / "checkpoints"
        while len(list(checkpoints.glob("checkpoint-*"))) < 2:
            assert all(job.poll() is None for job in jobs), [job.communicate() for job in jobs]
            time.sleep(0.05)
        ip("-n", spaces["10.231.7.2"], "link", "set", "cable", "down")
        cut = time.monotonic()
        logs = [job.communicate(timeout=20 * TIMEOUT)[1] for job in jobs]
        assert time.monotonic() - cut < 4 * TIMEOUT
        assert [job.returncode for job in jobs] == [1, 1], logs
        for root, other in zip(roots, reversed(spaces), strict=True):
            assert f"lost contact with host {other}" in (root / "output" / "failure").read_text()

        last = max(int(path.name.partition("-")[2]) for path in checkpoints.glob("checkpoint-*"))
        ip("-n", spaces["10.231.7.2"], "link", "set", "cable", "up")
        for root in roots:
            path = root / "input" / "config" / "hyperparameters.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "max_num_batches": str(last + 4)}))
        jobs = [start(root, space) for root, space in zip(roots, spaces.values(), strict=True)]
        logs = [job.communicate(timeout=20 * TIMEOUT)[1] for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0], logs
        assert f"going on after update {last}," in logs[0]
