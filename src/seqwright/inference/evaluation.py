"""Scoring a model: on references under teacher forcing, and on its translations."""

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
from seqwright.inference.input_report import InputReport
from seqwright.inference.options import SearchOptions, search_options
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
    """Over every target token of `batches`, under teacher forcing: the sum of negative log-likelihoods, the
    number of tokens ranked first, and the number of tokens."""
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
    translator: Translator | str | Path,
    source: str | Path,
    target: str | Path,
    options: SearchOptions | None = None,
    **named: object,
) -> dict[str, float | int | str]:
    """Translate `source` and compare with `target`, its reference line by line.

    Sequences that were cut, and unknown tokens if they are many, are logged as warnings for both files.

    Args:
        translator: the model, or where it is.
        source: a text file, one sequence a line.
        target: its reference.
        options: how to search.
        named: single search options by name, such as `beam_size=10`.

    Returns:
        `pairs`; `bleu`, `chrf` and `wer` (in percent) of the translations; `perplexity` and `accuracy` (0 to 1) of
        the references under teacher forcing, pairs with an empty side left out; and sacrebleu's signatures.

    Raises:
        ClientError: an option is not valid, a file cannot be read, or the files differ in length or have no pair.
    """
    options = search_options(options, named)
    translator = translator if isinstance(translator, Translator) else Translator.load(translator)
    trained, settings = translator.trained, translator.settings
    sources, references = _read_tokens(Path(source)), _read_tokens(Path(target))
    if len(sources) != len(references):
        raise ClientError(
            f"{source} has {len(sources):,} lines, but {target} has {len(references):,}: line by line, "
            "one must translate the other"
        )
    source_ids = [trained.source_vocabulary.ids(tokens) for tokens in sources]
    target_ids = [trained.target_vocabulary.ids(tokens) for tokens in references]
    kept = [pair for pair in zip(source_ids, target_ids, strict=True) if all(pair)]
    if not kept:
        raise ClientError(f"{source} and {target} have no pair in which both sides have words")
    source_report = InputReport.of_source(str(source), settings)
    target_report = InputReport(str(target), settings.max_seq_len_target, "max_seq_len_target")
    for report, texts, ids in ((source_report, sources, source_ids), (target_report, references, target_ids)):
        for pair in zip(texts, ids, strict=True):
            report.add(*pair)
        report.warn()
    corpus = ParallelCorpus(
        Sequences.of([pair[0] for pair in kept]),
        Sequences.of([pair[1] for pair in kept]),
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
    scores = ReferenceScores.of(*sums)
    hypotheses = [translation.tokens for translation in translator.translate_ids(source_ids, options)]
    bleu_score, chrf_score = bleu(hypotheses, references), chrf(hypotheses, references)
    return {
        "pairs": len(sources),
        "bleu": bleu_score.value,
        "chrf": chrf_score.value,
        "wer": token_error_rate(hypotheses, references),
        "perplexity": scores.perplexity,
        "accuracy": scores.accuracy,
        "bleu_signature": bleu_score.signature,
        "chrf_signature": chrf_score.signature,
    }


def _read_tokens(path: Path) -> list[list[str]]:
    return [line.split() for block in read_blocks(path) for line in block]
