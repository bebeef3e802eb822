"""Scores of a model on parallel text."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqwright.artifacts import TrainedModel, save_model
from seqwright.inference.evaluation import evaluate
from seqwright.inference.translator import Translator

Maker = Callable[..., TrainedModel]


def test_scores_of_the_models_own_translations_are_perfect(small_model: Maker, tmp_path: Path) -> None:
    translator = Translator(small_model(seed=8, weight_init_scale=12.0), torch.device("cpu"))
    sources = ["w5 w9 w11", "w6 w7", "w12 w13 w14 w15 w5"]
    (tmp_path / "src").write_text("\n".join(sources) + "\n")
    (tmp_path / "trg").write_text("".join(f"{each.text}\n" for each in translator.translate(sources, beam_size=2)))
    scores = evaluate(translator, str(tmp_path / "src"), str(tmp_path / "trg"), beam_size=2)
    assert (scores["pairs"], scores["wer"]) == (3, 0.0)
    assert scores["bleu"] == pytest.approx(100)
    save_model(tmp_path / "model", translator.trained, {})
    of_path = evaluate(tmp_path / "model", tmp_path / "src", tmp_path / "trg", beam_size=2)
    assert of_path["bleu"] == pytest.approx(scores["bleu"], abs=1)


def test_text_that_was_not_split_as_the_training_data_is_warned_of_on_both_sides(
    small_model: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    translator = Translator(small_model(), torch.device("cpu"))
    (tmp_path / "src").write_text("Hello, world! w5\n")
    (tmp_path / "trg").write_text("Hallo, Welt! w5\n")
    evaluate(translator, tmp_path / "src", tmp_path / "trg")
    assert [message.split(":")[0] for message in caplog.messages] == [str(tmp_path / "src"), str(tmp_path / "trg")]
    assert all("2 of 3 tokens (67 %) are unknown" in message for message in caplog.messages)
