"""Translating tokens, texts and ids."""

import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqwright.artifacts import TrainedModel, save_model
from seqwright.errors import ClientError
from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translation, Translator

Maker = Callable[..., TrainedModel]
SOURCES = ["w5 w9 w11", "w6", "", "w7 unheard-of w8 w9 w10", "   "]


def run(search: Iterator[None]) -> None:
    for _ in search:
        pass


@pytest.fixture
def translator(small_model: Maker) -> Translator:
    return Translator(small_model(seed=8, weight_init_scale=12.0), torch.device("cpu"))


def test_strings_tokens_and_ids_give_the_same(translator: Translator) -> None:
    vocabulary = translator.trained.source_vocabulary
    by_string = translator.translate(SOURCES)
    by_token = translator.translate([source.split() for source in SOURCES])
    by_id = translator.translate_ids([vocabulary.ids(source.split()) for source in SOURCES])
    assert [t.tokens for t in by_string] == [t.tokens for t in by_token] == [t.tokens for t in by_id]
    assert [t.ids for t in by_id] == [translator.trained.target_vocabulary.ids(t.tokens) for t in by_id]


def test_order_is_kept_whatever_the_batch_size(translator: Translator) -> None:
    sources = [f"w{4 + i % 20} " * (1 + i % 7) for i in range(30)]
    expected = [translator.translate(source) for source in sources]
    for batch_size in (1, 4, 64):
        found = translator.translate(sources, batch_size=batch_size)
        assert [t.tokens for t in found] == [t.tokens for t in expected]
        assert [t.score for t in found] == pytest.approx([t.score for t in expected], abs=1e-4)


def test_an_empty_source_gives_an_empty_translation(translator: Translator) -> None:
    found = translator.translate(SOURCES, attention=True)
    assert found[2].tokens == found[4].tokens == []
    assert translator.translate([]) == []


def test_attention_has_a_row_a_target_token_and_a_column_a_source_token(translator: Translator) -> None:
    for source, translation in zip(SOURCES, translator.translate(SOURCES, attention=True), strict=True):
        matrix = translation.attention
        assert matrix is not None
        assert matrix.shape == (len(translation.tokens), len(source.split()))
        assert (matrix >= 0).all()
        assert (matrix.sum(1) <= 1 + 1e-5).all()
    assert translator.translate(["w5"])[0].attention is None


def test_alternatives_are_the_next_best(translator: Translator) -> None:
    found = translator.translate(["w5 w9"], beam_size=4, nbest=3)[0]
    scores = [found.score, *(other.score for other in found.alternatives)]
    assert len(scores) == 3
    assert scores == sorted(scores)
    assert len({found.text, *(other.text for other in found.alternatives)}) == 3


def test_a_long_source_is_cut_to_the_models_maximum(small_model: Maker) -> None:
    translator = Translator(small_model(max_seq_len_source=3), torch.device("cpu"))
    long, short = translator.translate(["w5 w6 w7 w8 w9", "w5 w6 w7"], attention=True)
    assert long.tokens == short.tokens
    assert isinstance(long.attention, np.ndarray)
    assert long.attention.shape[1] == 3


def test_a_limit_on_the_output_replaces_the_models_own(translator: Translator) -> None:
    free = translator.translate(["w4 w5"], attention=True)[0]
    assert len(free.tokens) > 3
    cut = translator.translate(["w4 w5"], max_output_length=3, nbest=5, attention=True)[0]
    for each in (cut, *cut.alternatives):
        assert len(each.ids) == len(each.tokens) <= 3
        assert each.attention is not None
        assert len(each.attention) == len(each.ids)
    longer = translator.translate(["w4 w5"], max_output_length=len(free.tokens) + 20)[0]
    assert len(longer.tokens) > len(free.tokens)


def limited(*limits: int | None) -> list[SearchOptions]:
    return [SearchOptions(max_output_length=limit) for limit in limits]


def test_every_source_of_a_batch_may_have_its_own_limit(translator: Translator) -> None:
    found: dict[int, Translation] = {}
    run(translator.translate_batch([[4, 5], [4, 5], [4, 5]], limited(2, None, 25), found.__setitem__))
    alone = [translator.translate_ids([[4, 5]], max_output_length=limit)[0] for limit in (2, None, 25)]
    assert [found[number].ids for number in range(3)] == [each.ids for each in alone]


def test_a_translation_is_told_as_soon_as_its_search_ends(translator: Translator) -> None:
    told: list[int] = []
    steps: list[int] = []

    def step() -> list[int]:
        steps.append(len(told))
        return []

    def tell(number: int, _: Translation) -> None:
        told.append(number)

    run(translator.translate_batch([[4, 5]] * 3, limited(9, 1, 5), tell, cancelled=step))
    assert told[0] == 1
    assert 1 in steps


def test_what_is_abandoned_is_not_told_and_changes_nothing_for_the_rest(translator: Translator) -> None:
    found: dict[int, Translation] = {}
    run(
        translator.translate_batch(
            [[4, 5], [6], [7]], limited(None, None, None), found.__setitem__, cancelled=lambda: [1]
        )
    )
    assert sorted(found) == [0, 2]
    assert [found[0].ids, found[2].ids] == [each.ids for each in translator.translate_ids([[4, 5], [7]])]


def test_bf16_translates_much_like_fp32(small_model: Maker) -> None:
    trained = small_model(seed=8, rnn_num_hidden=64)
    fp32 = Translator(trained, torch.device("cpu"), "fp32").translate(["w5 w9 w11"])[0]
    bf16 = Translator(trained, torch.device("cpu"), "bf16").translate(["w5 w9 w11"])[0]
    assert bf16.score == pytest.approx(fp32.score, rel=0.05)


def test_a_saved_model_translates_the_same(translator: Translator, tmp_path: Path) -> None:
    save_model(tmp_path / "model", translator.trained, {})
    loaded = Translator.load(tmp_path / "model", "cpu", "fp32")
    assert [t.text for t in loaded.translate(SOURCES)] == [t.text for t in translator.translate(SOURCES)]


@pytest.mark.parametrize(("device", "precision"), [("tpu", "auto"), ("cpu", "fp8")])
def test_an_unknown_device_or_precision_is_refused(
    device: str, precision: str, translator: Translator, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", translator.trained, {})
    with pytest.raises(ClientError, match="choose"):
        Translator.load(tmp_path / "model", device, precision)


def test_translations_that_are_cut_to_the_same_come_once(translator: Translator) -> None:
    found = translator.translate(["w4 w5"], max_output_length=1, beam_size=8, nbest=8)[0]
    every = [found, *found.alternatives]
    assert len({tuple(each.ids) for each in every}) == len(every)
    assert [each.score for each in every] == sorted(each.score for each in every)


def test_weights_that_are_too_large_are_told(small_model: Maker) -> None:
    trained = small_model(encoder_type="cnn", decoder_type="cnn")
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.fill_(1e38)
    with pytest.raises(ClientError, match="no finite probabilities"):
        Translator(trained, torch.device("cpu")).translate(["w5", "w6 w7"])


def test_a_text_gives_one_translation_and_a_sequence_of_texts_a_list(translator: Translator) -> None:
    one = translator.translate("w5 w9 w11", attention=True)
    (expected,) = translator.translate(["w5 w9 w11"], attention=True)
    assert isinstance(one, Translation)
    assert (one.tokens, one.score) == (expected.tokens, expected.score)


@pytest.mark.parametrize("options", [{"max_output_length": -1}, {"nbest": 0}, {"beam_size": 0}, {"beam_sise": 1}])
def test_options_that_are_not_valid_are_refused(options: dict[str, Any], translator: Translator) -> None:
    with pytest.raises(ClientError):
        translator.translate("w5", **options)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0])
def test_a_batch_size_that_is_not_valid_is_refused(batch_size: int, translator: Translator) -> None:
    with pytest.raises(ClientError, match="batch_size must be"):
        translator.translate(["w5"], batch_size=batch_size)


def test_a_pickled_translator_translates_the_same(translator: Translator) -> None:
    copied = pickle.loads(pickle.dumps(translator))  # noqa: S301 - of this process
    assert [t.text for t in copied.translate(SOURCES)] == [t.text for t in translator.translate(SOURCES)]


def test_unknown_tokens_are_listed_and_many_are_warned_of(
    translator: Translator, caplog: pytest.LogCaptureFixture
) -> None:
    known, unknown = translator.translate(["w5 w6", "w7 strange w8 odd strange"])
    assert (known.unknown_tokens, unknown.unknown_tokens) == ([], ["strange", "odd", "strange"])
    (message,) = caplog.messages
    assert "3 of 7 tokens (43 %) are unknown to the model, such as 'strange', 'odd'" in message
    (of_ids,) = translator.translate_ids([[5, 1, 6]])
    assert of_ids.unknown_tokens == ["<unk>"]


def test_a_few_unknown_tokens_are_no_reason_for_a_warning(
    translator: Translator, caplog: pytest.LogCaptureFixture
) -> None:
    (translation,) = translator.translate(["w5 w6 w7 w8 w9 w10 w11 w12 w13 strange"])
    assert translation.unknown_tokens == ["strange"]
    assert not caplog.messages


def test_sequences_that_are_cut_are_warned_of_once(small_model: Maker, caplog: pytest.LogCaptureFixture) -> None:
    translator = Translator(small_model(max_seq_len_source=3), torch.device("cpu"))
    translator.translate(["w5", "w5 w6 w7 w8", "w5 w6 w7", "w5 w6 w7 w8 w9"])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 of 4 sequences are longer than max_seq_len_source=3 and were cut" in record.message
    assert "the first of them sequence 1 with 4 tokens" in record.message


@pytest.mark.parametrize("source", [5, None, b"w5"])
def test_what_is_neither_text_nor_a_list_is_refused(source: Any, translator: Translator) -> None:
    with pytest.raises(ClientError, match="translate takes a text, or a list of texts"):
        translator.translate(source)
