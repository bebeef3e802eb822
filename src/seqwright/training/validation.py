"""Scores of the model on the validation channel, at a checkpoint."""

import itertools
import json
import math
from collections.abc import Callable

import torch

from seqwright.artifacts import TrainedModel
from seqwright.data.batches import Batches
from seqwright.data.corpus import ParallelCorpus
from seqwright.devices import Precision
from seqwright.inference.beam_search import NotFiniteError
from seqwright.inference.evaluation import ReferenceScores, reference_sums
from seqwright.inference.translator import Translator
from seqwright.metrics import bleu
from seqwright.training.group import Group
from seqwright.training.progress import Scores
from seqwright.training.trainer import Validate


def validator(
    trained: TrainedModel,
    corpus: ParallelCorpus,
    batches: Batches,
    device: torch.device,
    precision: Precision,
    group: Group,
) -> Validate:
    """Make the function that scores the model as it is when called; with BLEU if the hyperparameters ask for it.

    Args:
        trained: the model in training.
        corpus: the validation channel, for BLEU.
        batches: the same channel in batches, for perplexity and accuracy.
        device: where the model is.
        precision: the arithmetic of training.
        group: the processes that share the work; all get the scores of the whole channel.
    """
    settings = trained.settings
    bleu_pairs = settings.bleu_sample_size
    if bleu_pairs == 0 and settings.optimized_metric == "bleu":
        bleu_pairs = -1

    def validate(stop_requested: Callable[[], bool]) -> Scores | None:
        share = itertools.islice(batches.in_order(), group.rank, None, group.size)
        until_stop = itertools.takewhile(lambda _: not stop_requested(), share)
        *sums, stops = group.sum(*reference_sums(trained.model, until_stop, device, precision), stop_requested())
        if stops:
            return None
        reference, bleu_score = ReferenceScores.of(*sums), None
        if bleu_pairs:
            bleu_score = sample_bleu(trained, corpus, bleu_pairs, device, precision, group, stop_requested)
            if bleu_score is None:
                return None
        return Scores(reference.perplexity, reference.accuracy, bleu_score)

    return validate


def sample_bleu(
    trained: TrainedModel,
    corpus: ParallelCorpus,
    size: int,
    device: torch.device,
    precision: Precision,
    group: Group,
    stop_requested: Callable[[], bool] = lambda: False,
) -> float | None:
    """BLEU of the beam-search translations of the first `size` pairs of `corpus`, or of all pairs if `size` is -1.

    References are whole, even where training cuts them. A reference word that the vocabulary lacks is `<unk>`, which
    `bleu` counts as matching nothing.

    Returns:
        The score; None if one of the processes was asked to stop; NaN if the model gives no finite probabilities.
    """
    count = len(corpus) if size == -1 else min(size, len(corpus))
    translator = Translator(trained, device, precision)
    sources = [corpus.source[i].tolist() for i in range(group.rank, count, group.size)]
    try:
        translations, failed = translator.translate_ids(sources, stop_requested=stop_requested), False
    except NotFiniteError:
        translations, failed = [], True
    stops, failures = group.sum(stop_requested(), failed)
    if stops:
        return None
    if failures:
        return math.nan
    shares = [json.loads(share) for share in group.gather(json.dumps([each.ids for each in translations]).encode())]
    hypotheses = [shares[i % group.size][i // group.size] for i in range(count)]
    words = trained.target_vocabulary.words
    references = [words(corpus.target[i].tolist()) for i in range(count)]
    return bleu([words(ids) for ids in hypotheses], references).value
