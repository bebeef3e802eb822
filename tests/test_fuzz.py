"""A short run of what `tests.fuzz` does for long, without its guidance: a few changed bytes, cuts and repetitions."""

import contextlib
import random
import resource
import time
from collections.abc import Iterator

import pytest

from seqwright.errors import ClientError
from tests.fuzz import TARGETS
from tests.fuzz_targets import FUZZED

SIZES = (0, 1, 127, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)
"""Numbers that matter where a size is meant."""


def changed(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        place, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 1, 4, 50))
        match chance.randrange(4):
            case 0:
                data[place : place + size] = chance.randbytes(size)
            case 1:
                del data[place : place + size]
            case 2:
                data[place:place] = data[place : place + size]
            case _:
                data[place : place + 4] = chance.choice(SIZES).to_bytes(4, "little")
    return bytes(data)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more than 2 GiB beyond what the process has."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with open("/proc/self/status") as status:
        has = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (has + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", TARGETS)
def test_changed_bytes_are_read_or_refused(name: str) -> None:
    chance = random.Random(name)  # noqa: S311 - changes, not secrets
    seeds = FUZZED[name].seeds()
    for _ in range(100 if name == "importer" else 300):
        data = changed(chance.choice(seeds), chance)
        started = time.monotonic()
        with contextlib.suppress(ClientError):
            FUZZED[name].target(data)
        assert time.monotonic() - started < 20, data


def test_the_lists_of_targets_agree() -> None:
    assert tuple(FUZZED) == TARGETS
