"""The command line as its users see it: results on standard output, progress and messages on standard error."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqwright.cli.console import say
from tests.cli.conftest import HYPERPARAMETERS, Run
from tests.toy import SETTINGS, prepared, write_text


def test_text_is_prepared_trained_on_translated_and_scored(run: Run, tmp_path: Path) -> None:
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


def test_a_hyperparameter_option_overrides_the_file(run: Run, tmp_path: Path) -> None:
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


def test_results_are_utf8_whatever_the_locale(model: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "seqwright", "translate", "--model", str(model), "--format", "json"],
        input="ä 日本\n".encode(),
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.decode("utf-8"))["source"] == "ä 日本"


def test_a_message_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("a :smile: [red]b[/red] /x/%d")
    assert capsys.readouterr().err == "a :smile: [red]b[/red] /x/%d\n"


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


def test_commands_take_a_model_of_the_original_as_it_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path / "cache"))
    golden = Path(__file__).parents[1] / "golden" / "sockeye"
    model, source, target = golden / "gru_bilinear", golden / "test.src", golden / "test.trg"
    translated = run("translate", "--model", model, "--input", source)
    assert translated.status == 0, translated.err
    assert len(translated.out.splitlines()) == len(source.read_text().splitlines())
    scored = run("evaluate", "--model", model, "--source", source, "--target", target)
    assert scored.status == 0, scored.err
    data, output = prepared(tmp_path, pairs=40), tmp_path / "tuned"
    tuned = run("train", "--data", data, "--output", output, "--model", model, "-H", "max_num_batches=1")
    assert tuned.status == 0, tuned.err
    assert len(list((tmp_path / "cache" / "imported").glob("*/config.json"))) == 1
