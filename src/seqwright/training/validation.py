"""Scoring the model at a checkpoint, on the validation channel."""

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
from seqwright.training.parallel import Group
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
    """A function that scores the model as it then stands; with BLEU where the hyperparameters ask for it.

    Args:
        trained: the model in training.
        corpus: the validation channel, for BLEU.
        batches: the same in batches, for perplexity and accuracy.
        device: where the model is.
        precision: the arithmetic it is trained in.
        group: the processes that share the work; all get the scores of the whole.
    """
    settings = trained.settings
    asked = settings.bleu_sample_size
    size = -1 if asked == 0 and settings.optimized_metric == "bleu" else asked

    def validate(stop_requested: Callable[[], bool]) -> Scores | None:
        mine = itertools.islice(batches.in_order(), group.rank, None, group.size)
        share = itertools.takewhile(lambda _: not stop_requested(), mine)
        *sums, stopped = group.sum(*reference_sums(trained.model, share, device, precision), stop_requested())
        if stopped:
            return None
        shown, score = ReferenceScores.of(*sums), None
        if size:
            score = sample_bleu(trained, corpus, size, device, precision, group, stop_requested)
            if score is None:
                return None
        return Scores(shown.perplexity, shown.accuracy, score)

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
    """BLEU of beam-search translations of the first `size` pairs of `corpus`, references whole; of all of them if -1.

    None where one of the group's processes was asked to stop; not a number where the model gives no finite
    probabilities.
    """
    count = len(corpus) if size == -1 else min(size, len(corpus))
    translator = Translator(trained, device, precision)
    sources = [corpus.source[i].tolist() for i in range(group.rank, count, group.size)]
    try:
        mine, failed = translator.translate_ids(sources, stop_requested=stop_requested), False
    except NotFiniteError:
        mine, failed = [], True
    stopping, failures = group.sum(stop_requested(), failed)
    if stopping:
        return None
    if failures:
        return math.nan
    shares = [json.loads(share) for share in group.gather(json.dumps([each.ids for each in mine]).encode())]
    found = [shares[i % group.size][i // group.size] for i in range(count)]
    words = trained.target_vocabulary.words
    references = [words(corpus.target[i].tolist()) for i in range(count)]
    return bleu([words(ids) for ids in found], references).value
