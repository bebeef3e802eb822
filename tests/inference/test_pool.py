"""Files translated by several processes: the same output, whatever happens to the processes."""

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from seqwright.artifacts import TrainedModel, save_model
from seqwright.devices import process_count
from seqwright.errors import AlgorithmError, ClientError
from seqwright.inference.bulk import translate_file
from seqwright.inference.options import SearchOptions
from seqwright.inference.pool import TranslatorPool, load_translators
from seqwright.inference.translator import Translator

SOURCES = ["", *(" ".join(f"w{4 + (i * j) % 20}" for j in range(1, 1 + i % 6)) for i in range(60))]


@pytest.fixture(scope="module")
def model(small_model: Callable[..., TrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool") / "model"
    save_model(folder, small_model(seed=8, weight_init_scale=12.0), {})
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{each}\n" for each in SOURCES))
    return path


@pytest.fixture(scope="module")
def pool(model: Path) -> Iterator[Translator | TranslatorPool]:
    with load_translators(model, "cpu", "fp32", "2") as pool:
        yield pool


def test_one_process_is_this_one(model: Path) -> None:
    with load_translators(model, "cpu", "fp32", "1") as alone:
        assert isinstance(alone, Translator)


def test_auto_is_a_process_for_each_thread_of_the_processor() -> None:
    assert process_count("auto", "cpu", on_cpu=3) == 3


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"options": SearchOptions(nbest=2)},
        {"as_json": True, "options": SearchOptions(nbest=2, beam_size=3)},
    ],
)
def test_two_processes_write_what_one_writes(
    options: dict[str, int], batch_size: int, pool: TranslatorPool, model: Path, source: Path, tmp_path: Path
) -> None:
    alone = Translator.load(model, "cpu", "fp32")
    for translator, name in ((alone, "one"), (pool, "two")):
        translate_file(translator, source=source, target=tmp_path / name, batch_size=batch_size, **options)  # type: ignore[arg-type]
    one, two = ((tmp_path / name).read_text().splitlines() for name in ("one", "two"))
    assert len(one) == len(two) >= len(SOURCES)
    for line, other in zip(one, two, strict=True):
        if "as_json" not in options:
            assert line == other
            continue
        expected, found = json.loads(line), json.loads(other)
        assert [each["target"] for each in found.get("nbest", [])] == [e["target"] for e in expected.get("nbest", [])]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert torch.allclose(torch.tensor(found["matrix"]), torch.tensor(expected["matrix"]), atol=1e-5)


def test_two_processes_go_on_where_one_stopped(pool: TranslatorPool, model: Path, source: Path, tmp_path: Path) -> None:
    translate_file(Translator.load(model, "cpu", "fp32"), source=source, target=tmp_path / "whole")
    whole = (tmp_path / "whole").read_text()
    (tmp_path / "out.partial").write_text("".join(whole.splitlines(keepends=True)[:23]))
    translate_file(pool, source=source, target=tmp_path / "out", batch_size=1, resume=True)
    assert (tmp_path / "out").read_text() == whole


def test_what_is_wrong_with_a_line_is_told(pool: TranslatorPool, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"source": "w5"}\n{"source": 5}\n')
    with pytest.raises(ClientError, match="line 2"):
        translate_file(pool, source=tmp_path / "in.jsonl", target=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="no model at"), load_translators(tmp_path / "none", processes="2"):
        pass


def test_a_process_that_is_killed_ends_the_rest_with_an_error(model: Path, source: Path, tmp_path: Path) -> None:
    others = set(multiprocessing.active_children())
    with TranslatorPool(model, "cpu", "fp32", 1) as pool:
        translate_file(pool, source=source, target=tmp_path / "first")
        (process,) = set(multiprocessing.active_children()) - others
        process.kill()
        with pytest.raises(AlgorithmError, match="seqwright-translate-0 was ended by SIGKILL"):
            translate_file(pool, source=source, target=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "in.txt"]


def test_a_line_by_itself_is_answered_before_the_next_is_read(pool: TranslatorPool) -> None:
    read = 0

    def lines() -> Iterator[list[list[int]]]:
        nonlocal read
        for number in (1, 2):
            read = number
            yield [[5, 6]]

    answers = pool.translate_blocks(lines(), SearchOptions())
    assert len(next(answers)) == 1
    assert read == 1
    assert len(list(answers)) == 1


ENDLESS = """
import multiprocessing
import sys
from itertools import repeat
from pathlib import Path
from seqwright.inference.options import SearchOptions
from seqwright.inference.pool import TranslatorPool

if __name__ == "__main__":
    with TranslatorPool(Path(sys.argv[1]), "cpu", "fp32", 1) as pool:
        for _ in pool.translate_blocks(repeat([[5, 6]]), SearchOptions()):
            print(*(process.pid for process in multiprocessing.active_children()), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_its_processes_end_when_it_is_killed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py"), str(model)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = Path("/proc", parent.stdout.readline().strip())
        assert child.exists()
        parent.kill()
    deadline = time.monotonic() + 30
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists()
