"""Scores against values worked out by hand."""

import math

import pytest

from seqwright.metrics import bleu, chrf, perplexity, sequence_error_rate, token_error_rate


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    assert perplexity(3 * math.log(7), 3) == pytest.approx(7)


def test_perplexity_overflows_to_infinity() -> None:
    assert perplexity(1e6, 1) == math.inf


def test_bleu_does_not_tokenize_again() -> None:
    tokens = ["das", "ist", "ein", ",", "satz", "."]
    assert bleu([tokens], [tokens]).value == pytest.approx(100)
    glued = ["das", "ist", "ein,", "satz."]
    assert bleu([glued], [tokens]).value < 30
    assert "tok:none" in bleu([tokens], [tokens]).signature


def test_bleu_equals_a_value_computed_by_hand() -> None:
    # 5, 3, 2 and 1 matching n-grams of 6, 5, 4 and 3; no brevity penalty.
    hypothesis, reference = list("abcdxe"), list("abcdef")
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu([hypothesis], [reference]).value == pytest.approx(expected)


def test_chrf_is_100_for_the_reference_itself() -> None:
    assert chrf([["ein", "satz"]], [["ein", "satz"]]).value == pytest.approx(100)


def test_token_error_rate_counts_edits_over_the_reference() -> None:
    hypotheses = [["a", "b"], ["a", "x", "c"], []]
    references = [["a", "b", "c"], ["a", "b", "c"], ["d", "e"]]
    assert token_error_rate(hypotheses, references) == pytest.approx(100 * 4 / 8)


def test_sequence_error_rate_counts_whole_sequences() -> None:
    assert sequence_error_rate([["a"], ["b"], ["c"]], [["a"], ["b"], ["x"]]) == pytest.approx(100 / 3)


def test_an_unknown_word_in_a_reference_matches_nothing() -> None:
    words, unknown = ["a", "b", "c", "d", "<unk>"], ["a", "b", "c", "d", "e"]
    for hypothesis in (words, unknown):
        assert bleu([hypothesis], [words]).value < 80
        assert chrf([hypothesis], [words]).value < 100
        assert token_error_rate([hypothesis], [words]) == pytest.approx(20)
        assert sequence_error_rate([hypothesis], [words]) == 100
    assert bleu([words], [unknown]).value == pytest.approx(bleu([words], [words]).value)
