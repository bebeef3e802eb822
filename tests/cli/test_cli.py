"""The command line as its users see it: results on standard output, one message and an exit status for errors."""

import gzip
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import seqwright
from seqwright.cli import main
from seqwright.cli.console import say
from tests.toy import SETTINGS, prepared, write_text

HYPERPARAMETERS = [option for name, value in SETTINGS.items() for option in ("-H", f"{name}={value}")]


@dataclass
class Result:
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run the command line in this process: `run("train", "--data", folder, …, stdin=b"…")`."""

    def call(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["seqwright", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Result(status, *capsys.readouterr())

    yield call
    logging.getLogger().handlers.clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the toy task, barely trained, with its text beside it."""
    from seqwright.training.job import Channels, train

    folder = tmp_path_factory.mktemp("toy")
    train(Channels.under(prepared(folder)), folder / "model", {**SETTINGS, "max_num_batches": 20}, precision="fp32")
    return folder / "model"


def test_it_says_its_version(run: Run) -> None:
    result = run("--version")
    assert (result.status, result.out) == (0, f"seqwright {seqwright.__version__}\n")


def test_from_text_to_translations(run: Run, tmp_path: Path) -> None:
    write_text(tmp_path, 100)
    made = run(
        "prepare", "--train-source", tmp_path / "train.src", "--train-target", tmp_path / "train.trg",
        "--val-source", tmp_path / "val.src", "--val-target", tmp_path / "val.trg", "--output", tmp_path / "data",
    )  # fmt: skip
    assert made.status == 0, made.err
    assert "pairs kept" in made.out
    trained = run(
        "train", "--data", tmp_path / "data", "--output", tmp_path / "model", "-H", "max_num_batches=8",
        "--precision", "fp32", *HYPERPARAMETERS,
    )  # fmt: skip
    assert trained.status == 0, trained.err
    assert json.loads(trained.out)["updates"] == 8
    assert "#quality_metric: host=localhost, epoch=" in trained.err
    found = run("translate", "--model", tmp_path / "model", "--input", tmp_path / "val.src")
    assert found.status == 0, found.err
    assert len(found.out.splitlines()) == len((tmp_path / "val.src").read_text().splitlines())
    scored = run(
        "evaluate", "--model", tmp_path / "model", "--source", tmp_path / "val.src", "--target", tmp_path / "val.trg"
    )
    assert scored.status == 0, scored.err
    expected = {"pairs", "bleu", "chrf", "wer", "perplexity", "accuracy", "bleu_signature", "chrf_signature"}
    assert json.loads(scored.out).keys() == expected


def test_hyperparameters_come_from_a_file_and_options_go_before_it(run: Run, tmp_path: Path) -> None:
    data = prepared(tmp_path, pairs=40)
    (tmp_path / "h.json").write_text(json.dumps({**SETTINGS, "max_num_batches": 9}))
    result = run(
        "train", "--data", data, "--output", tmp_path / "model",
        "--hyperparameters", tmp_path / "h.json", "-H", "max_num_batches=2",
    )  # fmt: skip
    assert json.loads(result.out)["updates"] == 2


def test_translate_reads_standard_input_and_writes_json(run: Run, model: Path) -> None:
    result = run("translate", "--model", model, "--format", "json", "--nbest", "2", stdin=b"a b c\n\nd zebra\n")
    assert result.status == 0, result.err
    first, empty, last = map(json.loads, result.out.splitlines())
    assert first["source"] == "a b c"
    assert {"target", "score", "matrix", "nbest"} <= first.keys()
    assert len(first["matrix"]) == len(first["target"].split())
    assert all(len(row) == 3 for row in first["matrix"])
    assert all(weight == round(weight, 6) for row in first["matrix"] for weight in row)
    assert first["nbest"][0]["target"] == first["target"]
    assert (empty["target"], empty["matrix"]) == ("", [])
    assert last["source"] == "d zebra"


def test_translate_does_not_write_over_the_model(run: Run, model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(model / "config.json")
    for output in (model / "config.json", link):
        result = run("translate", "--model", model, "--output", output, stdin=b"a b\n")
        assert (result.status, result.out) == (2, "")
        assert result.err == f"ClientError: {output} is the model, or a part of it: name another output\n"
    json.loads((model / "config.json").read_text())


def test_translate_writes_nbest_lines_and_reads_gzip(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.gz").write_bytes(gzip.compress(b"a b c\nd\n"))
    result = run(
        "translate", "--model", model, "--input", tmp_path / "in.gz", "--output", tmp_path / "out",
        "--nbest", "3", "--beam-size", "4",
    )  # fmt: skip
    assert (result.status, result.out) == (0, "")
    assert len((tmp_path / "out").read_text().splitlines()) == 6


def test_every_sequence_has_as_many_lines_as_translations_were_asked_for(run: Run, model: Path) -> None:
    result = run("translate", "--model", model, "--nbest", "7", "--beam-size", "2", stdin=b"a b c\n\nd\n")
    lines = result.out.split("\n")
    assert len(lines) == 3 * 7 + 1
    assert lines[7:14] == [""] * 7
    assert all(len(set(lines[start : start + 7])) == 7 for start in (0, 14))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("arguments", [["--version"], ["translate", "--model", "MODEL"]])
def test_output_that_cannot_be_written_is_told(arguments: list[str], model: Path) -> None:
    command = [sys.executable, "-m", "seqwright", *(str(model) if each == "MODEL" else each for each in arguments)]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, input="a b\n", stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr == "ClientError: cannot write standard output: no space left on device\n"


def test_results_are_utf8_whatever_the_locale(model: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "seqwright", "translate", "--model", str(model), "--format", "json"],
        input="ä 日本\n".encode(),
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.decode("utf-8"))["source"] == "ä 日本"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_log_that_cannot_be_written_ends_nothing(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seqwright", "train", "--data", str(model.parent / "data"), "--precision", "fp32"]
    with open("/dev/full", "w") as full:
        trained = subprocess.run(
            [*command, "--output", str(tmp_path / "model"), "-H", "max_num_batches=2", *HYPERPARAMETERS],
            stdout=subprocess.PIPE,
            stderr=full,
        )
        refused = subprocess.run([*command, "--output", str(model)], stderr=full)
    assert trained.returncode == 0
    assert json.loads(trained.stdout)["updates"] == 2
    assert refused.returncode == 2


def test_a_log_line_says_what_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    say("a :smile: [red]b[/red] /x/%d")
    assert capsys.readouterr().err == "a :smile: [red]b[/red] /x/%d\n"


@pytest.mark.parametrize(("stream", "option"), [("stdin", "--input"), ("stdout", "--output")])
def test_a_closed_stream_is_told(stream: str, option: str, model: Path) -> None:
    close = f"import sys; sys.{stream} = None; from seqwright.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", close, "translate", "--model", str(model)], input="a\n", capture_output=True, text=True
    )
    assert result.returncode == 2
    assert f"is closed: name a file with {option}" in result.stderr


def test_bad_text_leaves_no_output(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a b\n\xff\xfe\n")
    result = run("translate", "--model", model, "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert result.status == 2
    assert "line 2 is not UTF-8" in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_references_of_another_length_are_refused(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a b\nc\n")
    (tmp_path / "b").write_text("b a\n")
    result = run("evaluate", "--model", model, "--source", tmp_path / "a", "--target", tmp_path / "b")
    assert result.status == 2
    assert "has 2 lines" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-H", "learning_rat=1"], "learning_rate"),
        (["train", "-H", "batch_size=0"], "batch_size"),
        (["train", "-H", "batch_size"], "name=value"),
        (["train", "-H", "momentum=0.9"], "momentum"),
        (["train", "-H", "rnn_num_hidden=13"], "rnn_num_hidden"),
        (["train", "--hyperparameters", "/no/such/file"], "/no/such/file"),
        (["train", "--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_a_users_mistake_exits_2_with_one_message(arguments: list[str], message: str, run: Run, tmp_path: Path) -> None:
    result = run(*arguments, "--data", prepared(tmp_path, pairs=10), "--output", tmp_path / "model")
    assert result.status == 2
    assert message in result.err
    assert result.err.startswith("ClientError: ")
    assert "Traceback" not in result.err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["train", "--data", "d", "--output", "o", "--seed", str(1 << 64)], "--seed"),
        (["train", "--data", "d", "--output", "o", "--timeout", "inf"], "--timeout"),
        (["translate", "--model", "m", "--batch-size", str(1 << 80)], "--batch-size"),
        (["translate", "--model", "m", "--beam-size", "100000"], "--beam-size"),
        (["translate", "--model", "m", "--nbest", str(1 << 80)], "--nbest"),
        (["translate", "--model", "m", "--processes", "99999"], "processes"),
        (["evaluate", "--model", "m", "--source", "s", "--target", "t", "--beam-size", "100000"], "--beam-size"),
        (["serve", "--model", "m", "--workers", "99999"], "--workers"),
        (["serve", "--model", "m", "--max-wait-ms", "inf"], "--max-wait-ms"),
        (["serve", "--model", "m", "--backlog", "nan"], "--backlog"),
        (["serve", "--model", "m", "--deadline", "inf"], "--deadline"),
    ],
)
def test_vast_values_are_refused(arguments: list[str], option: str, run: Run) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert option in result.err
    assert "Traceback" not in result.err


LIMITED = """
import resource
from pathlib import Path
import seqwright.inference.bulk
import seqwright.training.job
from seqwright.cli import main
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
main()
"""
"""The command where there is no more than a gigabyte left."""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks for its size under /proc")
def test_a_search_that_does_not_fit_into_memory_is_told(model: Path) -> None:
    wide = ["--beam-size", "10000", "--batch-size", "20000"]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, "translate", "--model", str(model), "--device", "cpu", *wide],
        input="a b c d\n" * 20000,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 2, result.stderr
    assert "does not fit into memory: make the batch size or the beam size smaller" in result.stderr


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks for its size under /proc")
def test_a_model_that_does_not_fit_into_memory_is_told(model: Path, tmp_path: Path) -> None:
    data = ["--data", str(model.parent / "data"), "--output", str(tmp_path / "model"), "--device", "cpu"]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, "train", *data, "-H", "num_embed_source=100000000"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 2, result.stderr
    assert "ClientError: there is not enough memory" in result.stderr
    assert not (tmp_path / "model").exists()


def test_a_model_that_is_not_there_exits_2(run: Run, tmp_path: Path) -> None:
    result = run("translate", "--model", tmp_path / "none")
    assert result.status == 2
    assert "no model at" in result.err


def test_a_fault_of_ours_exits_1_and_debug_shows_it(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr("seqwright.inference.translator.load_model", lambda path, device: broken(path))
    result = run("translate", "--model", tmp_path)
    assert result.status == 1
    assert result.err.startswith("AlgorithmError: ZeroDivisionError: no such luck")
    shown = run("--debug", "translate", "--model", tmp_path)
    assert shown.status == 1
    assert "Traceback (most recent call last)" in shown.err
    assert shown.err.endswith("AlgorithmError: ZeroDivisionError: no such luck\n")


def test_a_traceback_has_no_credentials(run: Run) -> None:
    result = run("--debug", "translate", "--model", "http://user:passw0rd@127.0.0.1:1/x.tar.gz?sig=topsecretkey")
    assert result.status == 2
    assert "Traceback" in result.err
    assert "passw0rd" not in result.err
    assert "topsecretkey" not in result.err


def test_an_interrupted_command_says_so_and_exits_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seqwright.inference.translator.Translator.load", interrupt)
    result = run("translate", "--model", "any")
    assert (result.status, result.err) == (130, "interrupted\n")


def test_help_has_whole_option_names_in_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("train", "--help")
    assert result.status == 0
    assert "--freeze-vectors-source " in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_help_lists_the_commands(run: Run) -> None:
    result = run("--help")
    assert result.status == 0
    for command in ("prepare", "train", "translate", "evaluate", "demo"):
        assert command in result.out


def test_training_starts_from_a_model_and_vectors(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "vectors.vec").write_text("2 8\na 1 2 3 4 5 6 7 8 \nb 8 7 6 5 4 3 2 1 \n")
    start = ["--model", model, "--vectors-source", tmp_path / "vectors.vec", "--freeze-vectors-source"]
    data = ["--data", model.parent / "data", "--precision", "fp32"]
    result = run("train", *data, *start, "-H", "max_num_batches=2", "--output", tmp_path / "tuned")
    assert result.status == 0, result.err
    assert json.loads(result.out)["updates"] == 2
    assert "source vectors: 2 of 8 words of the vocabulary found (25.0 %)" in result.err
    assert "the source embedding is frozen" in result.err
    refused = run("train", *data, "--freeze-vectors-target", "--output", tmp_path / "other")
    assert (refused.status, refused.out) == (2, "")
    assert "give --vectors-target or --model" in refused.err
    assert not (tmp_path / "other").exists()
