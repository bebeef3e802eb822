"""Functions that read untrusted bytes, and inputs to start from."""

import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqwright.artifacts import FILES, LengthRatio, TrainedModel, load_model, save_model
from seqwright.data.recordio import decode_records, encode_records
from seqwright.data.sequences import Sequences
from seqwright.data.vocabulary import Vocabulary
from seqwright.hyperparameters import Hyperparameters
from seqwright.importers.config import parse_config
from seqwright.importers.ndarray import parse_ndarrays
from seqwright.importers.sockeye import import_sockeye
from seqwright.models.seq2seq import build_model, initialize_model

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("source", "target")

Target = Callable[[bytes], None]


@dataclass(frozen=True)
class Fuzzed:
    """A function of bytes to fuzz, and inputs to start from."""

    target: Target
    seeds: Callable[[], Sequence[bytes]]


def recordio(data: bytes) -> None:
    decode_records(data, NAMES, "fuzz")


def protobuf(data: bytes) -> None:
    """The payload of a well-formed frame, once and twice: several records are found in another way than one."""
    frame = b"\x0a\x23\xd7\xce" + len(data).to_bytes(4, "little") + data + bytes(-len(data) % 4)
    decode_records(frame, NAMES, "fuzz")
    decode_records(frame * 2, NAMES, "fuzz")


def archive(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=_memory(), suffix=".tar") as file:
        file.write(data)
        file.flush()
        load_model(Path(file.name))


def ndarrays(data: bytes) -> None:
    parse_ndarrays(data, "fuzz")


def config(data: bytes) -> None:
    parse_config(data, "fuzz")


PARTS = ("config", "params.best", "vocab.src.0.json", "vocab.trg.0.json", "metrics")


def importer(data: bytes) -> None:
    """A model folder in which one file is replaced; the first byte says which."""
    with tempfile.TemporaryDirectory(dir=_memory()) as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(GOLDEN / "sockeye" / "gru_bilinear", folder)
        (folder / PARTS[data[0] % len(PARTS) if data else 0]).write_bytes(data[1:])
        import_sockeye(folder, Path(scratch) / "output")


def _memory() -> Path | None:
    """A file system in memory, None if there is none."""
    memory = Path("/dev/shm")  # noqa: S108 - scratch files get names of their own
    return memory if memory.is_dir() else None


def _records() -> list[bytes]:
    pairs = {name: Sequences.of([[1, 2, 300], [], [70000]]) for name in NAMES}
    whole = encode_records(pairs)
    payload = whole[8 : 8 + int.from_bytes(whole[4:8], "little")]
    first, last = payload[:4], payload[4:]
    in_parts = b"".join(
        b"\x0a\x23\xd7\xce" + (part << 29 | len(data)).to_bytes(4, "little") + data + bytes(-len(data) % 4)
        for part, data in ((1, first), (2, b""), (3, last))
    )
    return [whole, (GOLDEN / "prepare" / "val.rec").read_bytes()[:4096], in_parts + whole]


def _payloads() -> list[bytes]:
    found = []
    for data in _records():
        size = int.from_bytes(data[4:8], "little")
        found.append(data[8 : 8 + size])
    return found


def _archives() -> list[bytes]:
    """A model in an archive without compression: in a compressed one, all changes would give the same error."""
    settings = Hyperparameters.parse({"rnn_num_hidden": 2, "num_embed_source": 2, "num_embed_target": 2})
    vocabulary = Vocabulary(["<pad>", "<unk>", "<s>", "</s>", "a"])
    model = build_model(settings, 5, 5)
    initialize_model(model, settings, 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        save_model(folder, TrainedModel(model, settings, vocabulary, vocabulary, LengthRatio(mean=1, std=0)), {})
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name in FILES:
                tar.add(folder / name, name)
    return [stream.getvalue()]


def _part(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((GOLDEN / "sockeye").glob(f"*/{name}"))]


def _parts() -> list[bytes]:
    return [bytes([number]) + content for number, name in enumerate(PARTS) for content in _part(name)[:1]]


FUZZED = {
    "recordio": Fuzzed(recordio, _records),
    "protobuf": Fuzzed(protobuf, _payloads),
    "archive": Fuzzed(archive, _archives),
    "ndarrays": Fuzzed(ndarrays, lambda: _part("params.best")),
    "config": Fuzzed(config, lambda: _part("config")),
    "importer": Fuzzed(importer, _parts),
}
