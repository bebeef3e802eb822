"""Scoring a model: on references it is shown, and on translations it makes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from seqwright.data.batches import Batch, Batches
from seqwright.data.corpus import ParallelCorpus
from seqwright.data.sequences import Sequences
from seqwright.data.text import read_blocks
from seqwright.devices import Precision, autocast
from seqwright.errors import ClientError
from seqwright.inference.translator import Translator
from seqwright.metrics import bleu, chrf, perplexity, token_error_rate
from seqwright.models.loss import batch_loss
from seqwright.models.seq2seq import Seq2Seq


@dataclass(frozen=True)
class ReferenceScores:
    """How well a model predicts each reference token from those before it.

    Attributes:
        perplexity: `exp` of the mean negative log-likelihood a token, EOS counted.
        accuracy: the share of tokens ranked first, EOS counted, 0 to 1.
    """

    perplexity: float
    accuracy: float

    @classmethod
    def of(cls, loss: float, correct: float, tokens: float) -> "ReferenceScores":
        """From sums over all tokens, as `reference_sums` gives them."""
        return cls(perplexity(loss, int(tokens)), correct / tokens)


@torch.inference_mode()
def reference_sums(
    model: Seq2Seq, batches: Iterable[Batch], device: torch.device, precision: Precision
) -> tuple[float, int, int]:
    """Over every target token of `batches`, under teacher forcing: negative log-likelihood, ranked first, tokens."""
    loss, correct, tokens = 0.0, 0, 0
    model.eval()
    for batch in batches:
        with autocast(device, precision):
            scored = batch_loss(model, batch.to(device))
        loss += float(scored.total)
        correct += int(scored.correct)
        tokens += scored.tokens
    return loss, correct, tokens


def evaluate(
    translator: Translator, source: Path, target: Path, *, beam_size: int | None = None
) -> dict[str, float | int | str]:
    """Translate `source` and compare with `target`, its reference line by line.

    Returns:
        `pairs`; `bleu`, `chrf` and `wer` (in percent) of the translations; `perplexity` and `accuracy` (0 to 1) of
        the references under teacher forcing, pairs with an empty side left out; and sacrebleu's signatures.

    Raises:
        ClientError: a file cannot be read, or the files differ in length or have no pair.
    """
    sources, references = _read_tokens(source), _read_tokens(target)
    if len(sources) != len(references):
        raise ClientError(
            f"{source} has {len(sources):,} lines, but {target} has {len(references):,}: line by line, "
            "one must translate the other"
        )
    trained, settings = translator.trained, translator.trained.settings
    kept = [pair for pair in zip(sources, references, strict=True) if all(pair)]
    if not kept:
        raise ClientError(f"{source} and {target} have no pair in which both sides have words")
    corpus = ParallelCorpus(
        Sequences.of([trained.source_vocabulary.ids(pair[0]) for pair in kept]),
        Sequences.of([trained.target_vocabulary.ids(pair[1]) for pair in kept]),
        digest="",
    )
    batches = Batches(
        corpus,
        batch_size=settings.batch_size,
        max_source_length=settings.max_seq_len_source,
        max_target_length=settings.max_seq_len_target,
        bucket_width=settings.bucket_width,
        bucketing=True,
        seed=0,
        source_eos=trained.source_eos,
    )
    sums = reference_sums(trained.model, batches.in_order(), translator.device, translator.precision)
    shown = ReferenceScores.of(*sums)
    made = [translation.tokens for translation in translator.translate(sources, beam_size=beam_size)]
    bleu_score, chrf_score = bleu(made, references), chrf(made, references)
    return {
        "pairs": len(sources),
        "bleu": bleu_score.value,
        "chrf": chrf_score.value,
        "wer": token_error_rate(made, references),
        "perplexity": shown.perplexity,
        "accuracy": shown.accuracy,
        "bleu_signature": bleu_score.signature,
        "chrf_signature": chrf_score.signature,
    }


def _read_tokens(path: Path) -> list[list[str]]:
    return [line.split() for block in read_blocks(path) for line in block]
