import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqwright.data import recordio
from seqwright.data.frames import split_payloads
from seqwright.data.padding import count_padding, cut_padding, shorten
from seqwright.data.recordio import decode_records, encode_records, read_records
from seqwright.data.sequences import Sequences
from seqwright.errors import ClientError
from tests.data.originals import OriginalRecord, field, frame, pair, varint

GOLDEN = Path(__file__).parents[1] / "golden" / "prepare"
BOTH = ("source", "target")

ids = st.one_of(
    st.integers(0, 2**31 - 1),
    st.integers(0, 300),
    st.sampled_from([127, 128, 2**14 - 1, 2**14, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**31 - 1, 0xCED7230A >> 4]),
)
long_sides = st.builds(
    lambda count, step: [(index * step) % 50_000 for index in range(count)], st.integers(60, 200), ids
)
sides = st.lists(ids, max_size=8) | long_sides
pairs = st.lists(st.tuples(sides, sides), max_size=6)


def as_lists(sequences: Sequences) -> list[list[int]]:
    return [sequences[index].tolist() for index in range(len(sequences))]


def decoded(data: bytes, names: tuple[str, ...] = BOTH) -> list[tuple[list[int], ...]]:
    return list(zip(*map(as_lists, decode_records(data, names, "request")), strict=True))


@st.composite
def payloads(draw: st.DrawFn, source: list[int], target: list[int]) -> bytes:
    """Any way there is to write a pair."""
    style = draw(st.integers(0, 5))
    if style == 0:
        return pair(source, target)
    entries = []
    for name, values in (("source", source), ("target", target)):
        extra = draw(st.sampled_from([0, 0, 1, 7]))
        varints = [varint(value, extra if len(varint(value)) + extra <= 10 else 0) for value in values]
        if draw(st.booleans()):
            tensor = field(1, b"".join(varints))
        elif draw(st.booleans()):
            tensor = b"".join(b"\x08" + each for each in varints)
        else:
            half = len(varints) // 2
            tensor = field(1, b"".join(varints[:half])) + field(1, b"".join(varints[half:]))
        if draw(st.booleans()):
            tensor += field(3, varint(len(values)))
        if draw(st.booleans()):
            tensor = field(2, b"".join(map(varint, range(len(values))))) + tensor
        entry = [field(1, name.encode()), field(2, field(7, tensor))]
        entries.append(field(1, b"".join(draw(st.permutations(entry)))))
    entries = list(draw(st.permutations(entries)))
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, 2)), field(1, field(1, b"weight") + field(2, field(2, field(1, bytes(4))))))
    if draw(st.booleans()):
        entries.append(field(2, field(1, b"label") + field(2, field(7, field(1, b"\x01")))))
    if draw(st.booleans()):
        entries.append(field(3, b"uid") + field(4, b"{}") + field(5, b"x") + field(17, b"a field of the future"))
    if draw(st.booleans()):  # the last entry of a key counts
        entries.insert(0, field(1, field(1, b"source") + field(2, field(7, field(1, b"\x09\x09")))))
    return b"".join(entries)


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_what_is_written_is_what_the_protobuf_library_writes(rows: list[tuple[list[int], list[int]]]) -> None:
    source, target = Sequences.of([row[0] for row in rows]), Sequences.of([row[1] for row in rows])
    written = encode_records({"source": source, "target": target})
    assert written == b"".join(frame(_canonical(*row)) for row in rows)
    assert decoded(written) == rows


def _canonical(source: list[int], target: list[int]) -> bytes:
    record = OriginalRecord()
    for name, values in (("source", source), ("target", target)):
        record.features[name].int32_tensor.SetInParent()
        record.features[name].int32_tensor.values.extend(values)
    entries = [record.features[name].SerializeToString() for name in BOTH]
    return b"".join(
        field(1, field(1, name.encode()) + field(2, value)) for name, value in zip(BOTH, entries, strict=True)
    )


@settings(max_examples=150, deadline=None)
@given(st.data(), pairs)
def test_reads_every_way_to_write_a_pair(data: st.DataObject, rows: list[tuple[list[int], list[int]]]) -> None:
    written = [data.draw(payloads(*row)) for row in rows]
    for payload, row in zip(written, rows, strict=True):  # the protobuf library agrees that this is the pair
        features = OriginalRecord.FromString(payload).features
        assert tuple(list(features[name].int32_tensor.values) for name in BOTH) == tuple(row)
    stream = b"".join(map(frame, written))
    assert decoded(stream) == rows
    assert decoded(stream, ("target",)) == [(target,) for _, target in rows]
    assert decoded(stream, ("target", "source")) == [(target, source) for source, target in rows]


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_damaged_bytes_give_what_protobuf_reads_or_an_error(data: st.DataObject) -> None:
    """Flipped bytes give what the protobuf library reads, or an error: never a crash, never other ids."""
    payload = bytearray(pair(data.draw(st.lists(ids, max_size=8)), data.draw(st.lists(ids, max_size=8))))
    for _ in range(data.draw(st.integers(1, 3))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    stream = frame(pair([4], [5])) + frame(bytes(payload)) + frame(pair([300, 6], []))
    try:
        result = decoded(stream)
    except ClientError as error:
        assert "record 2" in str(error)  # noqa: PT017
    else:
        features = OriginalRecord.FromString(bytes(payload)).features
        assert result[1] == tuple(list(features[name].int32_tensor.values) for name in BOTH)
        assert result[0] == ([4], [5])
        assert result[2] == ([300, 6], [])


def test_reads_the_files_of_the_original() -> None:
    (source, target), *rest = read_records(GOLDEN / "train.rec", BOTH)
    assert not rest
    assert len(source) == len(target) == 499
    data = (GOLDEN / "train.rec").read_bytes()
    assert encode_records({"source": source, "target": target}) == data
    payload = data[8 : 8 + struct.unpack("<I", data[4:8])[0]]
    assert as_lists(source)[0] == list(OriginalRecord.FromString(payload).features["source"].int32_tensor.values)


def test_a_single_feature_is_written_and_read() -> None:
    target = Sequences.of([[7, 400], []])
    written = encode_records({"target": target})
    assert decoded(written, ("target",)) == [([7, 400],), ([],)]


def test_a_value_without_a_tensor_is_an_empty_sequence() -> None:
    assert decoded(frame(field(1, field(1, b"source") + field(2, b""))), ("source",)) == [([],)]


def test_no_bytes_are_no_records() -> None:
    source, target = decode_records(b"", BOTH, "request")
    assert len(source) == len(target) == 0
    assert encode_records({"source": source}) == b""


def test_negative_ids_and_unequal_sides_are_not_written() -> None:
    with pytest.raises(ValueError, match="negative"):
        encode_records({"target": Sequences.of([[-1]])})
    with pytest.raises(ValueError, match="same number"):
        encode_records({"source": Sequences.of([[1]]), "target": Sequences.of([])})


@pytest.mark.parametrize("chunk", [8, 64, 1000, 1 << 20])
def test_chunks_do_not_change_what_is_read(chunk: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(rng.integers(1, 70_000, rng.integers(0, 40)).tolist(), [index + 1]) for index in range(50)]
    rows[20] = (rng.integers(1, 70_000, 3000).tolist(), [20])
    path = tmp_path / "any name"
    path.write_bytes(b"".join(frame(pair(*row)) for row in rows))
    monkeypatch.setattr(recordio, "CHUNK", chunk)
    chunks = list(read_records(path, BOTH))
    assert [row for columns in chunks for row in zip(*map(as_lists, columns), strict=True)] == rows
    assert (len(chunks) > 5) == (chunk < 1 << 20)


def test_a_magic_number_inside_a_record_is_read_as_content() -> None:
    magic = struct.pack("<I", 0xCED7230A)
    rows = []
    for shift in range(4):
        payload = field(4, bytes(shift) + magic * 3 + magic[:2]) + pair([shift, 5], [6])
        rows += [frame(payload), frame(pair([9], [9]))]
    expected = [row for shift in range(4) for row in (([shift, 5], [6]), ([9], [9]))]
    assert decoded(b"".join(rows)) == expected


def in_parts(payload: bytes) -> bytes:
    """A record as MXNet's writer frames it: cut where the magic number is at a multiple of four bytes."""
    magic = struct.pack("<I", 0xCED7230A)
    cuts = [at for at in range(0, len(payload) - 3, 4) if payload[at : at + 4] == magic]
    parts = [
        payload[start:end] for start, end in zip([0, *(at + 4 for at in cuts)], [*cuts, len(payload)], strict=True)
    ]
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        struct.pack("<II", 0xCED7230A, kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def with_magic_numbers(count: int, size: int = 0) -> bytes:
    """The pair 5, 6 and 7 with magic numbers at multiples of four bytes, `size` bytes between them."""
    return field(4, bytes(2) + (struct.pack("<I", 0xCED7230A) + bytes(size)) * count) + pair([5, 6], [7])


@pytest.mark.parametrize("chunk", [8, 64, 1 << 20])
def test_records_in_parts_are_joined(chunk: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = [pair([8], [9]), with_magic_numbers(1), with_magic_numbers(3), pair([8], [9]), with_magic_numbers(9, 40)]
    data = b"".join(map(in_parts, whole))
    assert data.count(struct.pack("<I", 0xCED7230A)) == len(whole) + 1 + 3 + 9
    expected = [([8], [9]), ([5, 6], [7]), ([5, 6], [7]), ([8], [9]), ([5, 6], [7])]
    assert decoded(data) == expected
    assert split_payloads(data, "request") == whole
    (tmp_path / "train.rec").write_bytes(data)
    monkeypatch.setattr(recordio, "CHUNK", chunk)
    chunks = read_records(tmp_path / "train.rec", BOTH)
    assert [row for columns in chunks for row in zip(*map(as_lists, columns), strict=True)] == expected


def test_parts_out_of_order_are_refused_by_record() -> None:
    start, end = (struct.pack("<II", 0xCED7230A, kind << 29 | 4) + bytes(4) for kind in (1, 3))
    for data, message in (
        (GOOD + end, r"record 2 \(byte 44\): the first part of it is missing"),
        (GOOD + start + GOOD, r"record 3 \(byte 56\): the last part of the record before it is missing"),
        (GOOD + start, r"record 2 \(byte 44\): cut short, 12 of 20 bytes"),
        (GOOD + start + end[:10], r"record 2 \(byte 44\): cut short, 22 of 24 bytes"),
    ):
        with pytest.raises(ClientError, match=message):
            decoded(data)


def read_file(path: Path, rows: list[tuple[list[int], list[int]]]) -> list[tuple[list[int], ...]]:
    path.write_bytes(b"".join(frame(pair(*row)) for row in rows))
    return [row for columns in read_records(path, BOTH) for row in zip(*map(as_lists, columns), strict=True)]


def test_padded_records_lose_their_trailing_zeros_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "train.rec"
    rows = [([4, 5, 0], [6]), ([4], [300]), ([7, 0, 0], [8, 0]), ([0, 0], [4]), ([], [])]
    assert read_file(path, rows) == [([4, 5], [6]), ([4], [300]), ([7], [8]), ([], [4]), ([], [])]
    (warning,) = caplog.messages
    assert warning.startswith(f"{path}: padding was cut off: 6 ids 0 at the ends of the sequences of 3 records")


def test_records_without_padding_are_read_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_file(tmp_path / "train.rec", [([4, 5], [6])]) == [([4, 5], [6])]
    assert not caplog.messages


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(1, 300), max_size=5), st.integers(0, 3)), max_size=30))
def test_padding_is_cut_off_any_mixture_of_sequences(rows: list[tuple[list[int], int]]) -> None:
    sequences = Sequences.of([ids + [0] * zeros for ids, zeros in rows])
    cut = count_padding(sequences)
    assert cut.tolist() == [zeros for _, zeros in rows]
    assert as_lists(shorten(sequences, cut)) == [ids for ids, _ in rows] == [*map(cut_padding, as_lists(sequences))]


def test_a_zero_before_other_ids_is_refused_by_record(tmp_path: Path) -> None:
    rows = [([4], [5]), ([4, 0], [5]), ([4], [5, 6, 0, 7, 0])]
    with pytest.raises(
        ClientError, match=r"train\.rec: record 3 \(byte 88\): feature 'target' has the id 0 at position 3"
    ):
        read_file(tmp_path / "train.rec", rows)
    with pytest.raises(ClientError, match="id 0 at position 1, before other ids"):
        cut_padding([0, 4])


def test_bytes_that_fill_up_a_frame_may_be_anything_and_missing_at_the_end() -> None:
    payload = pair([1, 2], [3]) + field(3, b"12")
    assert len(payload) % 4
    whole = frame(payload)
    odd = whole[: 8 + len(payload)] + b"\xff" * (-len(payload) % 4)
    assert decoded(odd + whole[: 8 + len(payload)]) == [([1, 2], [3])] * 2


GOOD = frame(pair([4, 5, 6], [7]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"\x0a\x23\xd7", "cut short"),
        (GOOD[:8], "cut short"),
        (GOOD[:21], "cut short"),
        (struct.pack("<II", 0xCED7230A, 0x1FFFFFFF) + bytes(100), "cut short"),
        (struct.pack("<II", 0xCED7230A, 0xFFFFFFFF) + bytes(100), "RecordIO frame"),
        (b"not a RecordIO file", "RecordIO frame"),
        (frame(b"\xff\xff\xff\xff"), "not a Record message"),
        (frame(b""), "no feature 'source'; its features: none"),
        (frame(field(1, field(1, b"source") + field(2, field(7, b"")))), "no feature 'target'; its features: 'source'"),
        (frame(field(1, field(1, b"sourcE") + field(2, field(7, b"")))), "no feature 'source'"),
        (frame(pair([4], [5]) + field(1, field(1, b"source") + field(2, field(2, b"")))), "is a float32_tensor"),
        (frame(pair([4], [5]) + field(1, field(1, b"target") + field(2, field(3, b"")))), "is a float64_tensor"),
        (frame(pair([4], [5]) + field(1, field(1, b"target") + field(2, field(9, b"")))), "is a bytes"),
        (frame(pair([4], [5, -3])), "'target' has the negative id -3"),
        (frame(pair([4], [5]) + field(1, field(1, b"source") + field(2, field(7, b"\x08" + varint(-9))))), "id -9"),
    ],
)
def test_bad_records_are_refused_with_record_and_byte(bad: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    path.write_bytes(GOOD * 2 + bad)
    with pytest.raises(ClientError, match=message) as error:
        list(read_records(path, BOTH))
    assert f"{path}: record 3 (byte {2 * len(GOOD)}): " in str(error.value)
    with pytest.raises(ClientError, match="request body: record 1 "):
        decode_records(bad, BOTH, "request body")


def test_record_and_byte_are_counted_across_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recordio, "CHUNK", 100)
    path = tmp_path / "train.rec"
    path.write_bytes(GOOD * 500 + frame(pair([-1], [1])) + GOOD * 10)
    with pytest.raises(ClientError, match=f"record 501 \\(byte {500 * len(GOOD):,}\\)"):
        list(read_records(path, BOTH))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="no such file"):
        list(read_records(tmp_path / "nowhere.rec", BOTH))
