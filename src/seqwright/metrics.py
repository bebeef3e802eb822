"""Scores of a model: perplexity, accuracy, BLEU, chrF and error rates.

`<unk>` in a reference matches nothing, `<unk>` in a hypothesis included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from seqwright.data.vocabulary import SPECIAL_TOKENS, UNK

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
    return _score(metric, hypotheses, references)


def chrf(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> TextScore:
    """Corpus chrF2 (Popović 2015) of the tokens joined by spaces, by sacrebleu."""
    return _score(CHRF(), hypotheses, references)


def token_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """Insertions, deletions and substitutions over all reference tokens, in percent (word error rate for speech)."""
    pairs = zip(hypotheses, map(_without_unknown, references), strict=True)
    errors = sum(Levenshtein.distance(list(h), r) for h, r in pairs)
    return 100 * errors / max(1, sum(len(r) for r in references))


def sequence_error_rate(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """The share of hypotheses that are not exactly their reference, in percent."""
    wrong = sum(list(h) != _without_unknown(r) for h, r in zip(hypotheses, references, strict=True))
    return 100 * wrong / max(1, len(references))


def _score(metric: BLEU | CHRF, hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> TextScore:
    texts = [" ".join(hypothesis) for hypothesis in hypotheses]
    score = metric.corpus_score(texts, [[" ".join(_without_unknown(reference)) for reference in references]])
    return TextScore(score.score, str(metric.get_signature()))


def _without_unknown(reference: Tokens) -> list[str]:
    """A reference whose unknown tokens match nothing: `<unk>` stands for any word, and so is never right."""
    return [_NO_WORD if token == _UNKNOWN else token for token in reference]


_UNKNOWN = SPECIAL_TOKENS[UNK]
_NO_WORD = "\ufdd0"
"""A code point that Unicode reserves to stand for no character."""
