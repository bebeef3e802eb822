import gzip
import json
import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from seqwright import locks
from seqwright.cli import main
from seqwright.data.prepare import PrepareReport, prepare
from seqwright.data.recordio import read_records
from seqwright.data.splits import DEFAULT_MAX_LENGTH, Lengths
from seqwright.data.text import BLOCK
from seqwright.data.vocabulary import Vocabulary
from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters

GOLDEN = Path(__file__).parents[1] / "golden" / "prepare"
OPTIONS: dict[str, dict[str, Any]] = {
    ".": {},
    "single": {"single_vocab": True, "num_words_source": 300},
    "min2": {"word_min_count_source": 2, "word_min_count_target": 3, "num_words_target": 200},
}


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def run(folder: Path, source: str | bytes, target: str | bytes, **options: Any) -> PrepareReport:
    return prepare(
        train_source=write(folder, "text.src", source),
        train_target=write(folder, "text.trg", target),
        output=folder / "out",
        **options,
    )


def pairs(folder: Path, record_file: str = "train/train.rec") -> list[tuple[str, str]]:
    """The text again, from what was written."""
    source_words, target_words = (Vocabulary.load(folder / "vocab" / f"vocab.{side}.json") for side in ("src", "trg"))
    return [
        (" ".join(source_words.words(source[index])), " ".join(target_words.words(target[index])))
        for source, target in read_records(folder / record_file, ("source", "target"))
        for index in range(len(source))
    ]


@pytest.fixture(params=["one process", "two processes"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for small texts, and as for large ones."""
    if request.param == "two processes":
        monkeypatch.setattr("seqwright.data.prepare._LARGE", 0)
        monkeypatch.setattr("os.cpu_count", lambda: 2)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("golden", OPTIONS)
def test_writes_what_the_original_writes(golden: str, tmp_path: Path) -> None:
    report = prepare(
        train_source=GOLDEN / "train.en",
        train_target=GOLDEN / "train.de",
        validation_source=GOLDEN / "val.en",
        validation_target=GOLDEN / "val.de",
        output=tmp_path / "out",
        **OPTIONS[golden],
    )
    for name in ("vocab.src.json", "vocab.trg.json"):
        expected = json.loads((GOLDEN / golden / name).read_text())
        assert json.loads((tmp_path / "out" / "vocab" / name).read_text()) == expected
    assert (tmp_path / "out/train/train.rec").read_bytes() == (GOLDEN / golden / "train.rec").read_bytes()
    if golden == ".":
        assert (tmp_path / "out/validation/val.rec").read_bytes() == (GOLDEN / "val.rec").read_bytes()
    assert (report.train.pairs, report.train.dropped) == (499, 2)
    assert report.validation is not None
    assert report.validation.pairs == 60


def test_given_vocabularies_are_used(tmp_path: Path) -> None:
    prepare(
        train_source=GOLDEN / "train.en",
        train_target=GOLDEN / "train.de",
        output=tmp_path / "out",
        vocab_source=GOLDEN / "min2/vocab.src.json",
        vocab_target=GOLDEN / "min2/vocab.trg.json",
    )
    assert (tmp_path / "out/train/train.rec").read_bytes() == (GOLDEN / "min2/train.rec").read_bytes()
    for side in ("src", "trg"):
        name = f"vocab.{side}.json"
        assert (tmp_path / "out/vocab" / name).read_bytes() == (GOLDEN / "min2" / name).read_bytes()


@pytest.mark.usefixtures("_both_ways")
def test_gzip_files_are_decompressed(tmp_path: Path) -> None:
    for side in ("en", "de"):
        write(tmp_path, f"train.{side}.gz", gzip.compress((GOLDEN / f"train.{side}").read_bytes()))
    prepare(train_source=tmp_path / "train.en.gz", train_target=tmp_path / "train.de.gz", output=tmp_path / "out")
    assert (tmp_path / "out/train/train.rec").read_bytes() == (GOLDEN / "train.rec").read_bytes()
    assert not (tmp_path / "out/validation").exists()


def test_only_a_line_feed_ends_a_line_and_all_white_space_parts_words(tmp_path: Path) -> None:
    source = "a\x0bb\x0cc\x85d\u2028e\x1df\rg\u3000h\r\n  i\tj  \nk"
    run(tmp_path, source, "1\n2\n3 \n")
    assert pairs(tmp_path / "out") == [("a b c d e f g h", "1"), ("i j", "2"), ("k", "3")]


def test_paths_may_be_strings(tmp_path: Path) -> None:
    golden = {side: str(GOLDEN / f"train.{side}") for side in ("en", "de")}
    prepare(train_source=golden["en"], train_target=golden["de"], output=str(tmp_path / "out"))
    assert (tmp_path / "out/train/train.rec").read_bytes() == (GOLDEN / "train.rec").read_bytes()


@pytest.mark.usefixtures("_both_ways")
def test_a_byte_order_mark_is_in_no_word(tmp_path: Path) -> None:
    run(tmp_path, b"\xef\xbb\xbfa b\n", b"\xef\xbb\xbfx\n")
    assert pairs(tmp_path / "out") == [("a b", "x")]


@pytest.mark.usefixtures("_both_ways")
def test_a_fraction_of_the_training_pairs_becomes_validation_pairs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = 3000
    source = "".join(f"w{index} w\n" if index % 7 else "\n" for index in range(count))
    target = "".join(f"v{index}\n" for index in range(count))
    report = run(tmp_path, source, target, val_fraction=0.1)
    train, validation = pairs(tmp_path / "out"), pairs(tmp_path / "out", "validation/val.rec")
    assert report.validation is not None
    assert (report.train.pairs, report.validation.pairs) == (len(train), len(validation))
    assert 0.08 * count < len(validation) < 0.12 * count
    expected = [(f"w{index} w", f"v{index}") for index in range(count) if index % 7]
    assert sorted(train + validation) == sorted(expected)
    assert set(train).isdisjoint(validation)
    (tmp_path / "out").rename(tmp_path / "before")
    run(tmp_path, source, target, val_fraction=0.1)
    assert pairs(tmp_path / "out", "validation/val.rec") == validation
    assert not caplog.messages


def test_a_lack_of_validation_pairs_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, "a\n", "x\n")
    (warning,) = caplog.messages
    assert "training needs some: give validation text" in warning


def test_special_tokens_in_the_text_are_counted_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    validation = {
        "validation_source": write(tmp_path, "val.src", "a\n"),
        "validation_target": write(tmp_path, "val.trg", "x </s>\n"),
    }
    run(tmp_path, "<s> a </s>\n<s> b </s>\n", "x <pad> y\n<unk> z\n", **validation)
    (warning,) = caplog.messages
    found = "2 <s> and 2 </s> on the source side, 1 <pad> on the target side of the training text; 1 </s> on the target"
    assert f"special tokens: {found} side of the validation text. Training" in warning
    assert "remove them from the text" in warning
    assert pairs(tmp_path / "out", "validation/val.rec") == [("a", "x </s>")]


def test_report_has_the_lengths_of_both_sides(tmp_path: Path) -> None:
    source = "".join("a " * length + "\n" for length in range(1, 101))
    target = "".join("x " * (2 * length) + "\n" for length in range(1, 101))
    report = run(tmp_path, source, target)
    assert report.train.source_lengths == Lengths(median=50, percentile_95=95, longest=100, over_default=0.0)
    assert report.train.target_lengths == Lengths(median=100, percentile_95=190, longest=200, over_default=0.5)


def test_a_length_beyond_the_histogram_is_still_the_longest(tmp_path: Path) -> None:
    report = run(tmp_path, "a " * 70_000 + "\na\na\n", "x\n" * 3)
    assert report.train.source_lengths == Lengths(median=1, percentile_95=1 << 16, longest=70_000, over_default=1 / 3)


def test_the_default_maximum_is_that_of_the_hyperparameters() -> None:
    assert Hyperparameters().max_seq_len_source == Hyperparameters().max_seq_len_target == DEFAULT_MAX_LENGTH


@pytest.mark.usefixtures("_both_ways")
def test_report_counts_what_was_dropped_and_is_unknown(tmp_path: Path) -> None:
    source = "a a b\n\nc\n \t\nd e\n"
    target = "x\ny\n \n\nx x <unk>\n"
    report = run(tmp_path, source, target, num_words_source=2, num_words_target=None, word_min_count_target=2)
    train = report.train
    assert (train.pairs, train.empty_source, train.empty_target, train.empty_both) == (2, 1, 1, 1)
    assert train.dropped == 3
    assert (train.source_tokens, train.source_unknown, train.target_tokens, train.target_unknown) == (5, 2, 4, 1)
    assert train.source_unknown_rate == pytest.approx(0.4)
    assert train.target_unknown_rate == pytest.approx(0.25)
    assert (report.source_vocabulary, report.target_vocabulary) == (6, 5)
    assert report.validation is None


def test_words_of_dropped_lines_count_as_in_the_original(tmp_path: Path) -> None:
    run(tmp_path, "a\nb b b\n", "x\n\n")
    assert Vocabulary.load(tmp_path / "out/vocab/vocab.src.json").tokens[4:] == ("b", "a")


def test_a_text_of_several_blocks_is_written_in_order(tmp_path: Path) -> None:
    count = 2 * BLOCK + 7
    seen: list[tuple[int, int]] = []
    source = "".join(f"w{index} w\n" for index in range(count))
    target = "".join(f"v{index}\n" if index % 5 else "\n" for index in range(count))
    run(tmp_path, source, target, progress=lambda done, total: seen.append((done, total)))
    expected = [(f"w{index} w", f"v{index}") for index in range(count) if index % 5]
    assert pairs(tmp_path / "out") == expected
    assert seen[-1][0] == seen[-1][1] == len(source) + len(target)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        ("a\nb\nc\n", "x\ny\n", {}, "text.src has 3 lines, .*text.trg only 2"),
        ("a\n", "x\ny", {}, "text.trg has 2 lines, .*text.src only 1"),
        ("a\n" * 3000, "x\n", {}, "text.src has 3,000 lines, .*text.trg only 1"),
        ("a\nb\n", b"x\ny \xff\n", {}, "text.trg: line 2 is not UTF-8 text .byte 3 of the line"),
        (b"a\n" * 2000 + b"\xe4\n", "x\n", {}, "text.src: line 2,001 is not UTF-8 text"),
        ("", "", {}, "no pair in which both sides have words"),
        ("\na\n", "x\n\n", {}, "no pair in which both sides have words"),
        ("a", "x", {"num_words_source": 0}, "start at 1, not 0"),
        ("a", "x", {"word_min_count_target": -2}, "start at 1, not -2"),
        ("a", "x", {"validation_source": Path("v")}, "validation text needs both sides"),
        ("a", "x", {"val_fraction": 0.0}, "above 0 and below 1"),
        ("a", "x", {"val_fraction": 1.0}, "above 0 and below 1"),
        ("a", "x", {"val_fraction": float("nan")}, "above 0 and below 1"),
        ("a", "x", {"val_fraction": 0.1, "validation_source": "v", "validation_target": "v"}, "not both"),
        ("a", "x", {"val_fraction": 0.01}, "0.01 of 1 training pairs .* leaves training or validation without a pair"),
        ("a", "x", {"vocab_source": "v" * 300, "vocab_target": "v"}, "file name too long"),
        ("a", "x", {"validation_source": "v" * 300, "validation_target": "v"}, "file name too long"),
        ("a", "x", {"vocab_target": Path("v")}, "vocabularies are needed for both sides"),
        ("a", "x", {"vocab_source": Path("no"), "vocab_target": Path("no")}, "cannot read the vocabulary no"),
        ("a", "x", {"vocab_source": Path("v"), "vocab_target": Path("v"), "single_vocab": True}, "used as they are"),
        ("a", "x", {"vocab_source": Path("v"), "vocab_target": Path("v"), "num_words_target": 9}, "used as they are"),
        ("a", "x", {"validation_source": Path("no"), "validation_target": Path("no")}, "cannot read the valid"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    source: str | bytes, target: str | bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ClientError, match=message):
        run(tmp_path, source, target, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.src", "text.trg"]


def test_bad_validation_text_leaves_nothing_behind(tmp_path: Path) -> None:
    validation = {"validation_source": write(tmp_path, "v.src", "a\n"), "validation_target": write(tmp_path, "v", "")}
    with pytest.raises(ClientError, match="the validation text is not parallel"):
        run(tmp_path, "a\n", "x\n", **validation)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize(
    "data",
    [b"not gzip", gzip.compress(b"word\n" * 1000)[:-20], gzip.compress(b"a\n")[:5]],
    ids=["another format", "cut in the data", "cut in the header"],
)
def test_a_damaged_gzip_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, "text.gz", data)
    with pytest.raises(ClientError, match=r"text\.gz"):
        prepare(train_source=path, train_target=path, output=tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["text.gz"]


def test_missing_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"cannot read the training text: no such file .*nowhere"):
        prepare(train_source=tmp_path / "nowhere", train_target=tmp_path / "nowhere", output=tmp_path / "out")


def test_a_folder_in_place_of_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="is a directory"):
        prepare(train_source=tmp_path, train_target=tmp_path, output=tmp_path / "out")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".out.a1b2c3d4.tmp" / "train"
    leftover.mkdir(parents=True)
    (leftover / "train.rec").write_bytes(b"half")
    run(tmp_path, "a b\n", "c\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.src", "text.trg"]


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.2)
    half_written = tmp_path / ".out.a1b2c3d4.tmp"
    half_written.mkdir()
    with locks.locked(tmp_path / ".out.lock", ""), pytest.raises(ClientError, match="another process is preparing"):
        run(tmp_path, "a b\n", "c\n")
    assert half_written.exists()
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_not_empty_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mine = write(tmp_path / "out", "mine", "precious")
    with pytest.raises(ClientError, match="already exists and is not empty"):
        run(tmp_path, "a\n", "x\n")
    assert mine.read_text() == "precious"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_empty_output_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run(tmp_path, "a\n", "x\n")
    assert pairs(tmp_path / "out") == [("a", "x")]


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does, for this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1000, 35_000])
def test_a_full_disk_leaves_nothing_behind(size: int, tmp_path: Path) -> None:
    with files_no_larger_than(size), pytest.raises(ClientError, match=r"cannot write .*: file too large"):
        prepare(
            train_source=GOLDEN / "train.en",
            train_target=GOLDEN / "train.de",
            output=tmp_path / "out",
            vocab_source=GOLDEN / "min2/vocab.src.json",
            vocab_target=GOLDEN / "min2/vocab.trg.json",
        )
    assert not list(tmp_path.iterdir())


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    text = write(tmp_path, "text", "a\n")
    with pytest.raises(ClientError, match="cannot write"):
        prepare(train_source=text, train_target=text, output=text / "out")


def test_the_command_shows_lengths_and_sets_pairs_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = [f"--train-{side}={GOLDEN / name}" for side, name in (("source", "train.en"), ("target", "train.de"))]
    output = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["seqwright", "prepare", *text, f"--output={output}", "--val-fraction=0.2"])
    with pytest.raises(SystemExit, match="0"):
        main()
    logging.getLogger().handlers.clear()
    table = {
        label: row.split()[-2:]
        for row in capsys.readouterr().out.splitlines()
        for label in ("pairs kept", "source length, median", "target length, 95 %", "source longer than 100")
        if row.startswith(label)
    }
    assert len(table) == 4
    assert sum(int(pairs) for pairs in table["pairs kept"]) == 499
    assert table["source longer than 100"] == ["0.00%", "0.00%"]
    assert len(pairs(output, "validation/val.rec")) == int(table["pairs kept"][1])
