"""Models of Sockeye for tests: golden ones, changes to them, archives of them."""

import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqwright.artifacts import TrainedModel
from seqwright.errors import ClientError
from seqwright.importers.ndarray import Arrays, parse_ndarrays
from seqwright.importers.sockeye import import_sockeye

GOLDEN = Path(__file__).parents[1] / "golden" / "sockeye"
SMALL = "gru_bilinear"


def write_params(path: Path, arrays: Arrays) -> None:
    """An NDArray list of V2 records, fp32."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    for array in arrays.values():
        parts.append(struct.pack(f"<Iii{array.ndim}q", 0xF993FAC9, 0, array.ndim, *array.shape))
        parts += [struct.pack("<iii", 1, 0, 0), array.astype("<f4").tobytes()]
    parts.append(struct.pack("<Q", len(arrays)))
    parts += [struct.pack("<Q", len(name.encode())) + name.encode() for name in arrays]
    path.write_bytes(b"".join(parts))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_params(model: Path, change: Callable[[Arrays], object]) -> None:
    arrays = parse_ndarrays((model / "params.best").read_bytes(), "params.best")
    change(arrays)
    write_params(model / "params.best", arrays)


def same_weights(one: TrainedModel, other: TrainedModel) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def pack(model: Path, archive: Path, prefix: str) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(model, prefix)
    return archive


def refuses(model: Path, output: Path, message: str) -> None:
    with pytest.raises(ClientError, match=message):
        import_sockeye(model, output)
    assert not output.exists()
    assert not list(output.parent.glob(f".{output.name}*"))
