import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from seqwright.data.corpus import ParallelCorpus, load_channel, load_vocabularies
from seqwright.data.recordio import encode_records
from seqwright.data.sequences import Sequences
from seqwright.errors import ClientError
from seqwright.interrupts import StopRequested
from tests.data.originals import frame, pair

GOLDEN = Path(__file__).parents[1] / "golden" / "prepare"

Pairs = list[tuple[list[int], list[int]]]
PAIRS: Pairs = [([4, 5, 6], [7]), ([8], [9, 10]), ([4], [4, 4, 4, 4])]


def records(pairs: Pairs) -> bytes:
    return encode_records(
        {"source": Sequences.of([source for source, _ in pairs]), "target": Sequences.of([t for _, t in pairs])}
    )


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    return folder


def load(channel: Path, size: int = 20) -> ParallelCorpus:
    return load_channel(channel, source_vocab_size=size, target_vocab_size=size, cache=channel.parent / "cache")


def as_pairs(corpus: ParallelCorpus) -> Pairs:
    return [(corpus.source[index].tolist(), corpus.target[index].tolist()) for index in range(len(corpus))]


def entries(channel: Path) -> list[Path]:
    return sorted((channel.parent / "cache").iterdir())


def test_files_of_a_channel_are_read_in_the_order_of_names(channel: Path) -> None:
    (channel / "part-2").write_bytes(records(PAIRS[1:]))
    (channel / "part-1.anything").write_bytes(records(PAIRS[:1]))
    (channel / "part-3").write_bytes(b"")
    (channel / ".hidden").write_bytes(b"not a record file")
    (channel / "folder").mkdir()
    corpus = load(channel)
    assert as_pairs(corpus) == PAIRS
    assert len(corpus) == 3


def test_subfolders_are_read_in_the_order_of_paths_without_hidden_files_and_markers(channel: Path) -> None:
    for name, data in (
        ("2020/11/a", records(PAIRS[:1])),
        ("2020/2/b", records(PAIRS[1:2])),
        ("z", records(PAIRS[2:])),
        ("_SUCCESS", b""),
        ("2020/_SUCCESS", b""),
        (".cache/c", b"not a record file"),
        ("2020/.crc", b"not a record file"),
    ):
        (channel / name).parent.mkdir(parents=True, exist_ok=True)
        (channel / name).write_bytes(data)
    assert as_pairs(load(channel)) == PAIRS
    (channel / "2020/2").rename(channel / "2020/3")
    assert as_pairs(load(channel)) == PAIRS
    assert len(entries(channel)) == 2
    with pytest.raises(ClientError, match=r"11/a: record 1 has the source id 6"):
        load(channel, 6)


def test_a_channel_with_nothing_but_a_marker_is_empty(channel: Path) -> None:
    (channel / "_SUCCESS").touch()
    with pytest.raises(ClientError, match="is empty"):
        load(channel)
    (channel / "_data").write_bytes(records(PAIRS))
    assert as_pairs(load(channel)) == PAIRS


def test_padding_is_cut_off_and_counted_in_one_warning_a_load(channel: Path, caplog: pytest.LogCaptureFixture) -> None:
    padded = [([*source, 0], [*target, 0, 0]) for source, target in PAIRS]
    (channel / "a").write_bytes(records(padded))
    (channel / "b").write_bytes(records(padded))
    for _ in range(2):  # the second load comes from the cache
        caplog.clear()
        corpus = load(channel)
        assert as_pairs(corpus) == PAIRS * 2
        (warning,) = caplog.messages
        assert warning.startswith(f"the channel {channel}: padding was cut off: 18 ids 0 at the ends")
        assert "of 6 records" in warning


def test_a_side_of_nothing_but_padding_is_empty(channel: Path) -> None:
    (channel / "train.rec").write_bytes(records([*PAIRS, ([0, 0], [4])]))
    with pytest.raises(ClientError, match="record 4 has no ids on the source side"):
        load(channel)


def test_special_tokens_in_the_data_are_counted_in_one_warning(channel: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs: Pairs = [([2, 4, 3], [5, 3]), ([2, 4], [1])]
    (channel / "train.rec").write_bytes(records(pairs))
    for _ in range(2):  # the second load comes from the cache
        caplog.clear()
        assert as_pairs(load(channel)) == pairs
        (warning,) = caplog.messages
        assert "has 2 <s> and 1 </s> on the source side, 1 </s> on the target side: training" in warning
        assert "Remove them" in warning


def test_paths_may_be_strings_and_too_long_ones_are_refused(channel: Path) -> None:
    (channel / "train.rec").write_bytes(records(PAIRS))
    cache = str(channel.parent / "cache")
    corpus = load_channel(str(channel), source_vocab_size=20, target_vocab_size=20, cache=cache)
    assert as_pairs(corpus) == PAIRS
    for read in (load, load_vocabularies):
        with pytest.raises(ClientError, match=r"cannot read the channel .*: file name too long"):
            read(channel / ("x" * 300))


def test_a_stop_leaves_no_cache_behind(channel: Path) -> None:
    (channel / "train.rec").write_bytes(records(PAIRS))
    cache = channel.parent / "cache"
    with pytest.raises(StopRequested):
        load_channel(channel, source_vocab_size=20, target_vocab_size=20, cache=cache, stop_requested=lambda: True)
    assert not entries(channel)
    assert as_pairs(load(channel)) == PAIRS


def test_arrays_are_mapped_read_only(channel: Path) -> None:
    (channel / "train.rec").write_bytes(records(PAIRS))
    corpus = load(channel)
    for array in (corpus.source.values, corpus.target.offsets):
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
    assert corpus.source.values.dtype == np.int32
    assert corpus.source.offsets.dtype == np.int64


def test_the_second_load_comes_from_the_cache(channel: Path) -> None:
    path = channel / "train.rec"
    path.write_bytes(records(PAIRS))
    first, stat = load(channel), path.stat()
    path.write_bytes(b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = load(channel)
    assert as_pairs(second) == PAIRS
    assert second.digest == first.digest
    assert len(entries(channel)) == 1


def test_changed_files_are_read_again(channel: Path) -> None:
    path = channel / "train.rec"
    path.write_bytes(records(PAIRS))
    first = load(channel)
    path.write_bytes(records([([11], [7]), *PAIRS[1:]]))
    os.utime(path, ns=(0, 0))
    second = load(channel)
    assert second.source[0].tolist() == [11]
    assert first.digest != second.digest
    (channel / "more.rec").write_bytes(records(PAIRS[:1]))
    assert len(load(channel)) == 4


def test_the_digest_depends_on_the_pairs_and_not_on_the_files(channel: Path) -> None:
    (channel / "train.rec").write_bytes(records(PAIRS))
    digest = load(channel).digest
    (channel / "train.rec").unlink()
    (channel / "a").write_bytes(records(PAIRS[:1]))
    (channel / "b").write_bytes(records(PAIRS[1:]))
    assert load(channel).digest == digest
    (channel / "a").write_bytes(records([([4, 5], [6, 7])]))
    assert load(channel).digest != digest
    swapped = [(target, source) for source, target in PAIRS]
    (channel / "a").write_bytes(b"")
    (channel / "b").write_bytes(records(swapped))
    assert load(channel).digest != digest


@pytest.mark.parametrize("name", ["entry.json", "source.values.npy", "target.offsets.npy"])
@pytest.mark.parametrize("damage", ["remove", "cut", "overwrite", "empty"])
def test_a_damaged_cache_is_built_again(name: str, damage: str, channel: Path) -> None:
    (channel / "train.rec").write_bytes(records(PAIRS))
    load(channel)
    (entry,) = entries(channel)
    whole = (entry / name).read_bytes()
    (entry / name).unlink()
    if damage != "remove":
        (entry / name).write_bytes({"cut": whole[:-4], "overwrite": b"x" * len(whole), "empty": b""}[damage])
    assert as_pairs(load(channel)) == PAIRS
    assert (entry / name).read_bytes() == whole


def test_a_file_of_many_chunks_is_read_whole(channel: Path) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 30, size=40_000)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    side = Sequences(rng.integers(4, 30_000, size=offsets[-1], dtype=np.int32), offsets)
    (channel / "train.rec").write_bytes(encode_records({"target": side, "source": side}))
    corpus = load(channel, 30_000)
    for read in (corpus.source, corpus.target):
        assert np.array_equal(read.values, side.values)
        assert np.array_equal(read.offsets, side.offsets)


def test_ids_outside_the_vocabulary_are_refused_by_record(channel: Path) -> None:
    (channel / "a.rec").write_bytes(records(PAIRS))
    (channel / "b.rec").write_bytes(records(PAIRS[:2]))
    assert len(load(channel, 11)) == 5
    with pytest.raises(
        ClientError, match=r"a\.rec: record 2 has the target id 10, but the target vocabulary ends at 9"
    ):
        load(channel, 10)
    (channel / "b.rec").write_bytes(records([*PAIRS[:2], ([4, 12, 13], [5])]))
    with pytest.raises(ClientError, match=r"b\.rec: record 3 has the source id 12, .* same run of `prepare`"):
        load(channel, 11)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (records(PAIRS)[:-9], "record 3 .* cut short"),
        (b"<html>moved</html>", "record 1 .* RecordIO frame"),
        (records(PAIRS) + struct.pack("<II", 0xCED7230A, 3) + b"\xff\xff\xff\0", "record 4 .* not a Record"),
        (frame(pair([4], [5])) + encode_records({"source": Sequences.of([[4]])}), "record 2 .* no feature 'target'"),
        (encode_records({"target": Sequences.of([[4]])}), "record 1 .* no feature 'source'"),
        (frame(pair([4], [-5])), "record 1 .* negative id -5"),
        (records([([4], [5]), ([4], [])]), "record 2 has no ids on the target side"),
        (records([([4], [5])]) + records([([], [4])]), "record 2 has no ids on the source side"),
    ],
)
def test_damaged_files_leave_no_cache_behind(data: bytes, message: str, channel: Path) -> None:
    (channel / "train.rec").write_bytes(data)
    for _ in range(2):
        with pytest.raises(ClientError, match=f"train.rec: {message}"):
            load(channel)
    assert not entries(channel)


def test_missing_and_empty_channels_are_refused(channel: Path) -> None:
    with pytest.raises(ClientError, match="is empty"):
        load(channel)
    (channel / ".hidden").write_bytes(records(PAIRS))
    with pytest.raises(ClientError, match="is empty"):
        load(channel)
    (channel / "train.rec").write_bytes(b"")
    with pytest.raises(ClientError, match="holds no record"):
        load(channel)
    with pytest.raises(ClientError, match="does not exist"):
        load(channel / "nowhere")
    with pytest.raises(ClientError, match="is not a folder"):
        load(channel / "train.rec")


def test_a_cache_that_cannot_be_written_is_refused(channel: Path) -> None:
    (channel / "train.rec").write_bytes(records(PAIRS))
    (channel.parent / "cache").write_text("in the way")
    with pytest.raises(ClientError, match="cannot write"):
        load(channel)


def test_vocabularies_are_loaded_and_missing_ones_named(tmp_path: Path) -> None:
    folder = tmp_path / "vocab"
    with pytest.raises(ClientError, match="does not exist"):
        load_vocabularies(folder)
    folder.mkdir()
    with pytest.raises(ClientError, match=r"no vocab\.src\.json and no vocab\.trg\.json"):
        load_vocabularies(folder)
    shutil.copy(GOLDEN / "vocab.src.json", folder)
    with pytest.raises(ClientError, match=r"has no vocab\.trg\.json"):
        load_vocabularies(folder)
    shutil.copy(GOLDEN / "vocab.trg.json", folder)
    source, target = load_vocabularies(folder)
    assert (len(source), len(target)) == (1395, 1646)


def test_files_of_the_original_are_read(channel: Path) -> None:
    shutil.copy(GOLDEN / "train.rec", channel)
    corpus = load_channel(channel, source_vocab_size=1395, target_vocab_size=1646, cache=channel.parent / "cache")
    assert len(corpus) == 499


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            "",
            r"the channel .*data/validation does not exist: .*data does not exist; name the folder",
        ),
        ("file", r"the channel .*data/validation does not exist: .*data is a file, not a folder"),
        ("folder", r"the channel .*data/validation does not exist: prepare the data again .* --val-fraction"),
    ],
)
def test_a_missing_channel_is_refused_with_what_to_do(made: str, message: str, tmp_path: Path) -> None:
    if made == "file":
        (tmp_path / "data").touch()
    elif made == "folder":
        (tmp_path / "data").mkdir()
    with pytest.raises(ClientError, match=message):
        load_channel(
            tmp_path / "data" / "validation", source_vocab_size=5, target_vocab_size=5, cache=tmp_path / "cache"
        )
