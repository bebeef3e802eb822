"""Models of Sockeye 1 load wherever a model of seqwright does, and are imported once."""

import logging
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from seqwright.artifacts import TrainedModel, load_model, save_model
from seqwright.errors import ClientError
from seqwright.importers.sockeye import import_sockeye
from seqwright.model_sources import load_any_model

GOLDEN = Path(__file__).parent / "golden" / "sockeye" / "gru_bilinear"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, in a folder of the test's own."""
    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wanted(tmp_path: Path) -> str:
    """The digest of the imported model."""
    return import_sockeye(GOLDEN, tmp_path / "wanted").digest()


def pack(folder: Path, archive: Path, prefix: str) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, prefix)
    return archive


def imports(cache: Path) -> list[Path]:
    """Everything in the cache's folder of imported models."""
    return sorted((cache / "imported").iterdir())


@pytest.mark.parametrize("form", ["folder", "folder in a folder", "archive", "folder in an archive"])
def test_a_sockeye_model_is_imported_at_the_first_load_and_found_at_the_second(
    form: str, cache: Path, wanted: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = {
        "folder": lambda: GOLDEN,
        "folder in a folder": lambda: Path(shutil.copytree(GOLDEN, tmp_path / "outer" / "inner")).parent,
        "archive": lambda: pack(GOLDEN, tmp_path / "model.tar.gz", "."),
        "folder in an archive": lambda: pack(GOLDEN, tmp_path / "model.tar.gz", "model"),
    }[form]()
    with caplog.at_level(logging.INFO):
        assert load_any_model(str(source)).digest() == wanted
        assert caplog.text.count("importing") == 1
        assert load_any_model(source).digest() == wanted
        assert caplog.text.count("importing") == 1
    (folder,) = imports(cache)
    assert load_model(folder).digest() == wanted


def test_another_content_of_the_same_path_is_imported_anew(cache: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(GOLDEN, model)
    first = load_any_model(model)
    shutil.rmtree(model)
    shutil.copytree(GOLDEN.parent / "cnn2rnn", model)
    assert load_any_model(model).settings != first.settings
    assert len(imports(cache)) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_of_seqwright_is_loaded_from_where_it_is(
    packed: bool, cache: Path, tmp_path: Path, small_model: Callable[..., TrainedModel]
) -> None:
    load_any_model(GOLDEN)
    save_model(tmp_path / "model", small_model(), {})
    source = pack(tmp_path / "model", tmp_path / "model.tar.gz", "model") if packed else tmp_path / "model"
    assert load_any_model(source).digest() == small_model().digest()
    assert len(imports(cache)) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_sockeye_model_gives_the_importers_error(packed: bool, cache: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(GOLDEN, model)
    (model / "params.best").write_bytes(b"damaged")
    source = pack(model, tmp_path / "model.tar.gz", ".") if packed else model
    with pytest.raises(ClientError, match=r"params\.best"):
        load_any_model(source)
    (model / "params.best").unlink()
    with pytest.raises(ClientError, match=r"is not a Sockeye model: it has no params\.best"):
        load_any_model(model)
    assert imports(cache) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.tar.gz": b"", "b.tar.gz": b""}, "holds 2 archives"),
        ({"a.tar.gz": b"no archive"}, "not a readable model.tar.gz"),
        (
            {"other": b""},
            r"no model at .*: it holds 'other'\. There must be a model's files, config\.json, metrics\.json",
        ),
        ({}, r"it is empty\. There must be .*; or those of the original, config, params\.best and the vocab"),
        ({f"{i}": b"" for i in range(9)}, r"it holds '0', '1', '2', '3', '4', \.\.\.\. There"),
        ({"config.json": b"{}"}, r"is not a complete model: it has no model\.safetensors"),
    ],
    ids=["two archives", "no archive", "something else", "nothing", "much else", "a part of a model"],
)
def test_a_folder_without_a_complete_model_is_refused(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(ClientError, match=message):
        load_any_model(folder)


def test_an_archive_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    with pytest.raises(ClientError, match=r"no model at .*x\.tar\.gz: it holds .*thesis\.tex"):
        load_any_model(pack(tmp_path / "folder", tmp_path / "x.tar.gz", "."))


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"no model at .*nowhere"):
        load_any_model(tmp_path / "nowhere")


@pytest.mark.parametrize("prefix", [".", "model"])
def test_the_one_archive_in_a_folder_is_loaded(prefix: str, wanted: str, tmp_path: Path) -> None:
    for name, model in (("ours", tmp_path / "wanted"), ("original", GOLDEN)):
        (tmp_path / name).mkdir()
        pack(model, tmp_path / name / "model.tar.gz", prefix)
        (tmp_path / name / "notes.txt").touch()
        assert load_any_model(tmp_path / name).digest() == wanted


def test_without_a_cache_the_model_is_imported_at_each_load(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQWRIGHT_CACHE", "/dev/null/cache")
    for _ in range(2):
        assert load_any_model(GOLDEN).digest() == wanted


def test_a_damaged_import_is_named_with_what_to_do(cache: Path) -> None:
    load_any_model(GOLDEN)
    (folder,) = imports(cache)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ClientError, match=rf"{folder} was imported from {GOLDEN}; remove it"):
        load_any_model(GOLDEN)


LOAD = """
import logging, sys
from seqwright.model_sources import load_any_model
logging.basicConfig(level=logging.INFO)
print(load_any_model(sys.argv[1]).digest())
"""


def test_processes_that_start_at_the_same_time_import_once(cache: Path, wanted: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", LOAD, GOLDEN], stdout=-1, stderr=-1, text=True) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in outputs] == [wanted] * 3, outputs
    assert sum(log.count("importing") for _, log in outputs) == 1
    assert len(imports(cache)) == 1


KILLED = """
import os, signal, sys
from safetensors import torch as stored
from seqwright.artifacts import saving
from seqwright.model_sources import load_any_model
saving.save_file = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
load_any_model(sys.argv[1])
"""


def test_what_a_killed_import_has_left_is_removed_by_the_next(
    cache: Path, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    source = pack(GOLDEN, tmp_path / "model.tar.gz", "model")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)  # so that TMPDIR is read again
    killed = subprocess.run([sys.executable, "-c", KILLED, source], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(imports(cache)) > 1
    assert load_any_model(source).digest() == wanted
    assert len(imports(cache)) == 1
    assert not list((tmp_path / "tmp").iterdir())
