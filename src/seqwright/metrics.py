"""Scores of a model: perplexity, accuracy, BLEU, chrF and error rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

Tokens = Sequence[str]


@dataclass(frozen=True)
class TextScore:
    """A corpus score and how it was computed.

    Attributes:
        value: the score, 0 to 100.
        signature: sacrebleu's description of the exact metric, for reports.
    """

    value: float
    signature: str


def perplexity(negative_log_likelihood: float, tokens: int) -> float:
    """`exp` of the mean negative log-likelihood a target token, natural logarithm; infinite on overflow.

    Args:
        negative_log_likelihood: summed over all target tokens, EOS counted.
        tokens: how many they are.
    """
    try:
        return math.exp(negative_log_likelihood / tokens)
    except OverflowError:
        return math.inf


def bleu(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> TextScore:
    """Corpus BLEU (Papineni et al. 2002) of the tokens as they stand, by sacrebleu without a tokenizer."""
    metric = BLEU(tokenize="none", force=True)
    score = metric.corpus_score([" ".join(h) for h in hypotheses], [[" ".join(r) for r in references]])
    return TextScore(score.score, str(metric.get_signature()))


def chrf(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> TextScore:
    """Corpus chrF2 (Popović 2015) of the tokens joined by spaces, by sacrebleu."""
    metric = CHRF()
    score = metric.corpus_score([" ".join(h) for h in hypotheses], [[" ".join(r) for r in references]])
    return TextScore(score.score, str(metric.get_signature()))


def token_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """Insertions, deletions and substitutions over all reference tokens, in percent (word error rate for speech)."""
    errors = sum(Levenshtein.distance(list(h), list(r)) for h, r in zip(hypotheses, references, strict=True))
    return 100 * errors / max(1, sum(len(r) for r in references))


def sequence_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """The share of hypotheses that are not exactly their reference, in percent."""
    wrong = sum(list(h) != list(r) for h, r in zip(hypotheses, references, strict=True))
    return 100 * wrong / max(1, len(references))
