"""Files of imported models: paths, limits, locks and what a killed import leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqwright import locks
from seqwright.artifacts import load_model
from seqwright.errors import ClientError
from seqwright.importers.sockeye import LIMITS, import_sockeye
from tests.importers.models import pack, refuses, same_weights


def test_paths_may_be_text_and_files_may_have_byte_order_marks(model: Path, output: Path) -> None:
    for name in ("config", "vocab.src.0.json", "vocab.trg.0.json", "metrics"):
        (model / name).write_bytes(b"\xef\xbb\xbf" + (model / name).read_bytes())
    trained = import_sockeye(str(model), str(output))
    assert same_weights(trained, load_model(output))
    assert json.loads((output / "metrics.json").read_text())["perplexity"] > 1


@pytest.mark.parametrize("name", ["config", "metrics", "vocab.src.0.json"])
def test_a_file_larger_than_its_limit_is_not_read(name: str, model: Path, output: Path, tmp_path: Path) -> None:
    with (model / name).open("r+b") as stream:
        stream.truncate(LIMITS[name] + 1)
    refuses(model, output, rf"sockeye/{name} has [0-9,]+ bytes, where at most {LIMITS[name]:,}")
    refuses(pack(model, tmp_path / "m.tar.gz", "m"), output, rf"m/{name} has [0-9,]+ bytes, a model at most")


def test_what_a_killed_import_left_is_removed_by_the_next_one(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "folder" / "imported"
    for name in (".imported.a1b2c3d4.tmp", ".imported.e5f6a7b8.tmp"):
        (output.parent / name).mkdir(parents=True)
        (output.parent / name / "params.best").write_bytes(b"half")
    import_sockeye(pack(model, tmp_path / "m.tar.gz", "m"), output)
    assert [path.name for path in output.parent.iterdir()] == ["imported"]


def test_what_a_killed_import_unpacked_is_removed_by_the_next_one(
    model: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, temporary = pack(model, tmp_path / "m.tar.gz", "m"), tmp_path / "temporary"
    program = (
        "import os, seqwright.importers.sockeye as sockeye\n"
        "sockeye.parse_config = lambda *_: os._exit(9)\n"
        f"sockeye.import_sockeye({str(archive)!r}, {str(output)!r})\n"
    )
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)  # it is read again
    temporary.mkdir()
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert any(temporary.glob("*/params.best"))
    import_sockeye(archive, output)
    assert not any(temporary.iterdir())


def test_two_imports_at_once_do_not_write_the_same_folder(
    model: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.2)
    with (
        locks.locked(locks.lock_path(output), ""),
        pytest.raises(ClientError, match=r"another process is importing into .*imported: let it end"),
    ):
        import_sockeye(model, output)
    assert not output.exists()


def test_paths_that_are_too_long_are_the_users_error(model: Path, output: Path) -> None:
    with pytest.raises(ClientError, match=r"cannot read .*: file name too long"):
        import_sockeye(model / ("x" * 300), output)
    with pytest.raises(ClientError, match=r"cannot write .*: file name too long"):
        import_sockeye(model, output.with_name("x" * 300))
