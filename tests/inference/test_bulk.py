"""Whole files: every format, in order, interrupted and resumed."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqwright import locks
from seqwright.artifacts import TrainedModel, save_model
from seqwright.data.recordio import encode_records
from seqwright.data.sequences import Sequences
from seqwright.errors import ClientError
from seqwright.inference.bulk import translate_file
from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translator

Maker = Callable[..., TrainedModel]
SOURCES = [" ".join(f"w{4 + (i * j) % 20}" for j in range(1, 2 + i % 5)) for i in range(40)]


@pytest.fixture
def translator(small_model: Maker) -> Translator:
    return Translator(small_model(seed=8, weight_init_scale=12.0), torch.device("cpu"))


@pytest.fixture
def expected(translator: Translator) -> list[str]:
    return [translation.text for translation in translator.translate(SOURCES)]


def write_text(path: Path) -> None:
    path.write_text("".join(f"{source}\n" for source in SOURCES))


def test_every_format_gives_the_same(translator: Translator, expected: list[str], tmp_path: Path) -> None:
    ids = [translator.trained.source_vocabulary.ids(source.split()) for source in SOURCES]
    write_text(tmp_path / "in.txt")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"source": source}) + "\n" for source in SOURCES))
    (tmp_path / "in.rec").write_bytes(encode_records({"source": Sequences.of(ids)}))
    for name in ("in.txt", "in.jsonl", "in.rec"):
        translate_file(translator, source=tmp_path / name, target=tmp_path / "out", batch_size=2)
        assert (tmp_path / "out").read_text().splitlines() == expected, name
    translate_file(translator, source=tmp_path / "in.rec", target=tmp_path / "out", as_json=True)
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["source"] for line in lines] == SOURCES


class Interruption(BaseException):
    """Stands for any interruption."""


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupted_output_goes_on_where_it_stopped(
    as_json: bool,
    translator: Translator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_text(tmp_path / "in")
    translate_file(translator, source=tmp_path / "in", target=tmp_path / "whole", as_json=as_json, batch_size=1)
    original, calls = translator.translate_ids, 0

    def stops(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Interruption
        return original(*arguments, **options)  # type: ignore[arg-type]

    options = {"source": tmp_path / "in", "target": tmp_path / "out", "as_json": as_json, "batch_size": 1}
    with monkeypatch.context() as patch:
        patch.setattr(translator, "translate_ids", stops)
        with pytest.raises(Interruption):
            translate_file(translator, **options)  # type: ignore[arg-type]
    partial = tmp_path / "out.partial"
    assert not (tmp_path / "out").exists()
    assert caplog.messages == [f"what was translated is in {partial}: the same command with --resume goes on from it"]
    assert len(partial.read_text().splitlines()) == 16
    partial.write_text(partial.read_text() + "half a li")
    translate_file(translator, **options, resume=True)  # type: ignore[arg-type]
    assert (tmp_path / "out").read_text() == (tmp_path / "whole").read_text()
    assert not partial.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.jsonl", b'{"source": "a"}\n{"source": 5}\n', 'line 2 must be an object with a text under "source"'),
        ("in.jsonl", b"{\n", "line 1 is not valid JSON"),
        ("in.jsonl", b"[" * 100_000 + b"\n", "line 1 is not valid JSON"),
        ("in.rec", b"broken bytes", "in.rec"),
        ("in.rec", encode_records({"source": Sequences.of([[4], [99]])}), "record 2 has the id 99"),
        ("in.txt", b"a\n\xff\n", "line 2 is not UTF-8"),
    ],
)
def test_bad_input_is_named_and_leaves_no_output(
    name: str, content: bytes, message: str, translator: Translator, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClientError, match=message):
        translate_file(translator, source=tmp_path / name, target=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_blank_lines_of_json_lines_are_passed_over_and_empty_texts_are_not(
    translator: Translator, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text('\n{"source": "w5"}\n\n{"source": ""}\n  \n{"source": "w6"}\n\n')
    translate_file(translator, source=source, target=target)
    first, second, third = target.read_text().splitlines()
    assert second == ""
    assert [first, third] == [each.text for each in translator.translate(["w5", "w6"])]


def test_a_line_is_counted_with_the_blank_lines_before_it(translator: Translator, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('\n{"source": "w5"}\n\nno json\n')
    with pytest.raises(ClientError, match="line 4 is not valid JSON"):
        translate_file(translator, source=tmp_path / "in.jsonl", target=tmp_path / "out")


def test_records_come_through_a_pipe(translator: Translator, tmp_path: Path) -> None:
    source, target = tmp_path / "in.rec", tmp_path / "out"
    os.mkfifo(source)
    content = encode_records({"source": Sequences.of([[5, 6], [7]] * 50)})
    writer = threading.Thread(target=source.write_bytes, args=(content,))
    writer.start()
    translate_file(translator, source=source, target=target)
    writer.join()
    assert len(target.read_text().splitlines()) == 100


def test_resuming_needs_something_to_resume(translator: Translator, tmp_path: Path) -> None:
    write_text(tmp_path / "in")
    with pytest.raises(ClientError, match=r"no .*out\.partial to go on from"):
        translate_file(translator, source=tmp_path / "in", target=tmp_path / "out", resume=True)
    with pytest.raises(ClientError, match="name the input and the output"):
        translate_file(translator, source=None, target=tmp_path / "out", resume=True)
    with pytest.raises(ClientError, match="needs --format json"):
        translate_file(
            translator, source=tmp_path / "in", target=tmp_path / "out", resume=True, options=SearchOptions(nbest=2)
        )
    (tmp_path / "out.partial").write_text("x\n" * 41)
    with pytest.raises(ClientError, match="1 lines more than"):
        translate_file(translator, source=tmp_path / "in", target=tmp_path / "out", resume=True)


def test_what_was_begun_with_something_else_is_not_gone_on_with(
    translator: Translator, small_model: Maker, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out"
    lines = [json.dumps({"source": each}) for each in SOURCES]
    source.write_text("\n".join([*lines[:20], "broken"]) + "\n")
    options = {"source": source, "target": target, "batch_size": 1}
    with pytest.raises(ClientError, match="line 21 is not valid JSON"):
        translate_file(translator, **options)  # type: ignore[arg-type]
    partial = tmp_path / "out.partial"
    begun = partial.read_text()
    assert len(begun.splitlines()) == 16
    source.write_text("\n".join(lines) + "\n")
    other = Translator(small_model(seed=9, weight_init_scale=12.0), torch.device("cpu"))
    for different, maker, changed in (
        ("model", other, {}),
        ("format, nbest", translator, {"as_json": True, "options": SearchOptions(nbest=2)}),
        ("beam_size", translator, {"options": SearchOptions(beam_size=2)}),
    ):
        with pytest.raises(ClientError, match=rf"out\.partial was begun with another {different}:"):
            translate_file(maker, **options, **changed, resume=True)  # type: ignore[arg-type]
        assert partial.read_text() == begun
    translate_file(translator, **options, resume=True)  # type: ignore[arg-type]
    assert target.read_text().splitlines() == [each.text for each in translator.translate(SOURCES)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out"]


@pytest.mark.parametrize("name", ["in", "linked", "hard", "../in/in", "grows"])
def test_the_input_is_not_written_over(name: str, translator: Translator, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = folder / ("grows.partial" if name == "grows" else "in")
    write_text(source)
    (folder / "linked").symlink_to("in")
    (folder / "hard").hardlink_to(source)
    before = source.read_text()
    with pytest.raises(ClientError, match=f"{source} would be overwritten"):
        translate_file(translator, source=source, target=folder / name)
    assert source.read_text() == before


def test_a_pipe_is_read_and_written_and_stays_one(translator: Translator, expected: list[str], tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    for pipe in (source, target):
        os.mkfifo(pipe)
    writer = threading.Thread(target=write_text, args=(source,))
    work = threading.Thread(target=translate_file, args=(translator,), kwargs={"source": source, "target": target})
    writer.start()
    work.start()
    assert target.read_text().splitlines() == expected
    writer.join()
    work.join()
    assert target.is_fifo()


def test_an_output_that_is_a_folder_is_refused_before_anything_is_translated(
    translator: Translator, tmp_path: Path
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("w5\n")
    with pytest.raises(ClientError, match="it is a folder"):
        translate_file(translator, source=source, target=tmp_path)


def test_half_a_character_is_refused_by_its_line(translator: Translator, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"source": "w5"}\n{"source": "w5 \\ud800"}\n')
    with pytest.raises(ClientError, match=r"in.jsonl: line 2 has half of a character"):
        translate_file(translator, source=source, target=tmp_path / "out")


@pytest.mark.parametrize("resume", [False, True])
def test_an_output_that_another_process_writes_is_left_to_it(
    resume: bool, translator: Translator, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.2)
    os.mkfifo(tmp_path / "pipe")
    write_text(tmp_path / "in")
    target = tmp_path / "out"
    first = {"source": tmp_path / "pipe", "target": target}
    work = threading.Thread(target=translate_file, args=(translator,), kwargs=first)
    work.start()
    with (tmp_path / "pipe").open("w") as pipe:  # opened when the first reads it, and holds its output
        with pytest.raises(ClientError, match=f"another process is writing {target}"):
            translate_file(translator, source=tmp_path / "in", target=target, resume=resume)
        pipe.write((tmp_path / "in").read_text())
    work.join()
    assert target.read_text().splitlines() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "pipe"]


def test_lines_that_are_cut_and_many_unknown_tokens_are_warned_of_once(
    small_model: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    translator = Translator(small_model(max_seq_len_source=3), torch.device("cpu"))
    (tmp_path / "in.txt").write_text("w5\nw5 w6 w7 w8\na b c d\n" * 20)
    translate_file(translator, source=tmp_path / "in.txt", target=tmp_path / "out", batch_size=1)
    cut, unknown = caplog.messages
    assert f"{tmp_path / 'in.txt'}: 40 of 60 sequences are longer than max_seq_len_source=3 and were cut" in cut
    assert "the first of them line 2 with 4 tokens" in cut
    assert "80 of 180 tokens (44 %) are unknown to the model, such as 'a'" in unknown


def test_a_dash_stands_for_the_standard_streams(
    translator: Translator, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "in")
    translate_file(translator, source=str(tmp_path / "in"), target="-")
    assert capsys.readouterr().out.splitlines() == expected


def test_a_batch_size_of_zero_is_refused(translator: Translator, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="batch_size must be"):
        translate_file(translator, source=tmp_path / "in", target=tmp_path / "out", batch_size=0)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_program_that_waits_for_each_answer_gets_it(
    processes: str, translator: Translator, expected: list[str], tmp_path: Path
) -> None:
    save_model(tmp_path / "model", translator.trained, {})
    command = [sys.executable, "-m", "seqwright", "translate", "--model", str(tmp_path / "model")]
    options = ["--precision", "fp32", "--batch-size", "2", "--processes", processes]
    with subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        watchdog = threading.Timer(120, process.kill)  # a program that never answers fails the test
        watchdog.start()
        asked = 0
        for count in (1, 1, 5, 2):  # lines that are written together
            process.stdin.write("".join(f"{source}\n" for source in SOURCES[asked : asked + count]))
            process.stdin.flush()
            answers = [process.stdout.readline().rstrip("\n") for _ in range(count)]
            assert answers == expected[asked : asked + count]
            asked += count
        process.stdin.write(SOURCES[asked])  # without a line end
        process.stdin.close()
        assert process.stdout.read() == f"{expected[asked]}\n"
        watchdog.cancel()
    assert process.returncode == 0
