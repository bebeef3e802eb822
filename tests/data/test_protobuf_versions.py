"""Records are read and written under every version of protobuf that users have for other reasons."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import seqwright

GOLDEN = Path(__file__).parents[1] / "golden" / "prepare"
VERSIONS = {
    "3.20.3": "the original's scripts",
    "6.33.0": "the platform's SDK, which needs less than 7",
    "7.36.2": "the newest one",
}
PROGRAM = """
import sys
import google.protobuf
from seqwright.data.frames import split_payloads
from seqwright.data.record import new_record, parse_record
from seqwright.data.recordio import decode_records

assert google.protobuf.__version__ == sys.argv[2]
data = open(sys.argv[1], "rb").read()
sides = ("source", "target")
columns = decode_records(data, sides, "golden")
payloads = split_payloads(data, "golden")
assert len(payloads) == len(columns[0]) == 499
for index, payload in enumerate(payloads):
    record, copy = parse_record(payload), new_record()
    for side, column in zip(sides, columns):
        values = record.features[side].int32_tensor.values
        assert record.features[side].WhichOneof("value") == "int32_tensor"
        assert list(values) == column[index].tolist()
        copy.features[side].int32_tensor.values.extend(values)
    assert copy.SerializeToString(deterministic=True) == payload
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_records_of_the_original_are_read_and_written(version: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    python = tmp_path / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"protobuf=={version}", "numpy"], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"protobuf {version} cannot be installed here: {installed.stderr[-300:]}")
    sources = Path(seqwright.__file__).parents[1]
    subprocess.run(
        [python, "-c", PROGRAM, GOLDEN / "train.rec", version],
        check=True,
        env={**os.environ, "PYTHONPATH": str(sources)},
    )
