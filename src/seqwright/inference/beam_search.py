"""One beam search for every decoder.

It is the original's search: a hypothesis that ends has its negative log probability divided by its length, and from
then on competes with that score; the search of a sentence ends when all K hypotheses have ended, or earlier, where the
rest of it cannot change what is wanted. The probability includes that of EOS, the length does not count it. A
hypothesis that is cut off keeps its whole negative log probability. (The original never keeps an empty hypothesis
beside others, for its length is 0; here it counts as 1.)

The model's part of a step runs where the model is. What the hypotheses are and cost is kept in NumPy's arrays: they
are so small that what counts is the number of operations, and NumPy's take a quarter of the time of PyTorch's.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqwright.data.vocabulary import BOS, EOS, PAD
from seqwright.errors import ClientError
from seqwright.models.prepared import SearchModel
from seqwright.models.protocols import select_hypotheses, select_sentences

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_INFINITE = np.float32(np.inf)

_GROUP = 64
"""Columns of a row that `_largest` first looks at together."""


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence.

    Attributes:
        ids: target ids without EOS.
        score: negative log probability, that of EOS included, over the number of `ids`, at least 1; lower is better.
            Not divided where the hypothesis was cut off before EOS.
        attention: weights over the source at each target position, `[len(ids), S]`, where asked for.
    """

    ids: list[int]
    score: float
    attention: Floats | None


class NotFiniteError(ClientError):
    """The model's probabilities are no numbers."""

    def __init__(self) -> None:
        super().__init__(
            "the model gives no finite probabilities: its weights are too large, or its training has diverged"
        )


@torch.inference_mode()
def beam_search(
    model: SearchModel,
    source: Tensor,
    lengths: Tensor,
    *,
    beam_size: int,
    max_lengths: Tensor,
    nbest: int = 1,
    attention: bool = False,
    found: Callable[[int, list[Hypothesis]], None],
    abandoned: Callable[[], Collection[int]] | None = None,
) -> Iterator[None]:
    """Find the best translations of a batch, a step whenever the next is asked for: several searches can take turns.

    Args:
        model: the model, in evaluation mode.
        source: source ids, `[B, S]`.
        lengths: their real lengths, at least 1, `[B]`.
        beam_size: hypotheses kept a sentence, K; 1 is greedy search.
        max_lengths: steps after which a sentence's open hypotheses are cut off, EOS counted, at least 1, `[B]`.
        nbest: hypotheses returned a sentence, at most K.
        attention: whether to return attention weights.
        found: told of each sentence, by its number, as soon as its search ends: its `nbest` hypotheses, best first;
            fewer where the vocabulary cannot give so many.
        abandoned: asked after every step for the numbers of sentences that nobody wants any more. They leave the
            batch, and `found` is not told of them; the others' hypotheses are what they would have been.

    Raises:
        NotFiniteError: a sentence has no hypothesis of finite cost.
    """
    device = source.device
    state = model.decoder.start(model.encode(source, lengths))
    active, limits = np.arange(len(source)), max_lengths.cpu().numpy()
    open_costs: Floats = np.zeros((len(source), 1), dtype=np.float32)
    ended_scores = np.full_like(open_costs, np.inf)
    tokens: Integers = np.full(open_costs.shape, BOS)
    prefixes: Integers = np.empty((*tokens.shape, 0), dtype=tokens.dtype)
    looked = _Looked() if attention else None

    while len(active):
        hidden, weights, state = model.decoder.step(_tensor(tokens, device), state)
        length, width = prefixes.shape[2], tokens.shape[1]
        costs, parents, tokens = _extend(open_costs, ended_scores, hidden, model.logits, beam_size)
        ends = tokens == EOS
        finished = ends | (tokens == PAD)
        scores = np.where(ends, costs / max(length, 1), costs)
        open_costs, ended_scores = np.where(finished, _INFINITE, scores), np.where(finished, scores, _INFINITE)

        places = np.arange(len(active))[:, None]
        prefixes = np.concatenate([prefixes[places, parents], tokens[:, :, None]], axis=2)
        rows = places * width + parents
        if looked is not None:
            looked.weights.append(weights.float().cpu().numpy())

        yield
        done = _is_settled(open_costs, ended_scores, limits, nbest) | (limits <= length + 1)
        unwanted = set(abandoned()) if abandoned is not None else set[int]()
        if unwanted:
            done |= np.isin(active, list(unwanted))
        if not done.any():
            state = select_hypotheses(state, _tensor(rows, device))
            if looked is not None:
                looked.parents.append(rows.ravel())
            continue
        for place in np.flatnonzero(done).tolist():
            number = int(active[place])
            if number in unwanted:
                continue
            best = _rank(scores[place], finished[place])[:nbest]
            if not best:
                raise NotFiniteError
            seen = [None] * len(best) if looked is None else looked.along(rows[place, best])
            found(
                number,
                [_hypothesis(prefixes[place, i], scores[place, i], each) for i, each in zip(best, seen, strict=True)],
            )
        keep = np.flatnonzero(~done)
        state = select_sentences(state, _tensor(keep, device), _tensor(rows[keep], device))
        if looked is not None:
            looked.parents.append(rows[keep].ravel())
        prefixes, tokens, active, limits = prefixes[keep], tokens[keep], active[keep], limits[keep]
        open_costs, ended_scores = open_costs[keep], ended_scores[keep]


def _tensor(numbers: Integers, device: torch.device) -> Tensor:
    """The numbers as a flat tensor."""
    return torch.from_numpy(numbers.ravel()).to(device)


def _extend(
    open_costs: Floats, ended_scores: Floats, hidden: Tensor, logits: Callable[[Tensor], Tensor], beam_size: int
) -> tuple[Floats, Integers, Integers]:
    """The cheapest extensions of each sentence's W hypotheses: K of them, or as many as there are.

    The K best of all are among the K best of each, so the vocabulary is gone through a hypothesis at a time, and only
    for those that may go on.

    Args:
        open_costs: what the hypotheses cost that may go on, infinite where one has ended, `[B, W]`.
        ended_scores: scores of those that have ended, infinite where one may go on: they extend by PAD alone, at no
            cost, `[B, W]`.
        hidden: the decoder's hidden vectors, `[B W, H]`.
        logits: makes unnormalised log probabilities `[M, V]` of the next token from hidden vectors `[M, H]`.
        beam_size: hypotheses kept a sentence, K.

    Returns:
        The new costs, the parents' numbers within the beam, and the tokens, all `[B, K]`, cheapest first.
    """
    costs_so_far = open_costs.ravel()
    rows = np.flatnonzero(costs_so_far < np.inf)
    if len(rows) < len(hidden):
        hidden = hidden.index_select(0, _tensor(rows, hidden.device))
    log_probabilities = torch.log_softmax(logits(hidden).float(), dim=1)
    log_probabilities[:, BOS] = log_probabilities[:, PAD] = -torch.inf
    gains, words = (each.cpu().numpy() for each in _largest(log_probabilities, beam_size))

    count = words.shape[1]
    extended = np.full((len(costs_so_far), count + 1), _INFINITE)
    extended[rows, :count] = costs_so_far[rows, None] - gains
    extended[:, count] = ended_scores.ravel()
    following = np.full(extended.shape, PAD)
    following[rows, :count] = words
    candidates = extended.reshape(len(open_costs), -1)
    chosen = candidates.argsort(axis=1)[:, :beam_size]
    sentences = np.arange(len(chosen))[:, None]
    tokens = following.reshape(candidates.shape)[sentences, chosen]
    return candidates[sentences, chosen], chosen // (count + 1), tokens


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of `values` `[M, V]`, or all if there are fewer, and their columns.

    The largest lie in the groups that have the largest maxima: most of a long row is only ever passed over for these,
    in a third of the time that PyTorch's `topk` takes for it on a CPU.
    """
    rows, columns = values.shape
    groups = columns // _GROUP
    if groups <= count:
        return values.topk(min(count, columns), dim=1)
    numbers = torch.arange(columns, device=values.device)
    maxima = values[:, : groups * _GROUP].view(rows, groups, _GROUP).amax(2)
    members = maxima.topk(count, dim=1).indices.unsqueeze(2) * _GROUP + numbers[:_GROUP]
    places = torch.cat([members.flatten(1), numbers[groups * _GROUP :].expand(rows, -1)], dim=1)
    best, chosen = values.gather(1, places).topk(count, dim=1)
    return best, places.gather(1, chosen)


def _is_settled(open_costs: Floats, ended_scores: Floats, limits: Integers, nbest: int) -> NDArray[np.bool_]:
    """Whether a sentence's `nbest` best hypotheses cannot change any more, `[B]`.

    An open hypothesis only gets more expensive, and its length, which divides its score when it ends, is bounded: so
    its score will be at least what it costs now over the greatest length. Once that is no less than what the
    `nbest`-th ended hypothesis costs, neither it nor what comes of it can take that one's place, in the result or in
    the beam.

    Args:
        open_costs: what open hypotheses cost, infinite for others, `[B, W]`.
        ended_scores: what ended hypotheses cost, infinite for others, `[B, W]`.
        limits: steps that the search may take, EOS counted, `[B]`.
        nbest: hypotheses wanted, at most K.
    """
    has_wanted = nbest <= ended_scores.shape[1]
    worst_wanted = np.partition(ended_scores, nbest - 1, axis=1)[:, nbest - 1] if has_wanted else _INFINITE
    settled: NDArray[np.bool_] = open_costs.min(axis=1) / np.maximum(limits - 1, 1) >= worst_wanted
    return settled


def _rank(scores: Floats, finished: NDArray[np.bool_]) -> list[int]:
    """The hypotheses of one sentence, best first; one cut off at the length limit ranks after every one that ended.

    Args:
        scores: what they cost, infinite where the beam has no such hypothesis, `[K]`.
        finished: which have ended, `[K]`.
    """
    values, ends = scores.tolist(), finished.tolist()
    real = (number for number, value in enumerate(values) if value < np.inf)
    return sorted(real, key=lambda number: (not ends[number], values[number]))


def _hypothesis(prefix: Integers, score: np.float32, looked: Floats | None) -> Hypothesis:
    """One hypothesis.

    Args:
        prefix: its tokens, EOS and the PAD after it included, `[T]`.
        score: what it costs.
        looked: weights over the source, `[T, S]`, where asked for.
    """
    ids = [token for token in prefix.tolist() if token not in (PAD, EOS)]
    return Hypothesis(ids, float(score), None if looked is None else looked[: len(ids)])


@dataclass(frozen=True)
class _Looked:
    """Where every hypothesis of a batch has looked; followed back from its end, so that no step copies what was before.

    Attributes:
        weights: of every step, those of the hypotheses that it extended, `[rows, S]`.
        parents: of every step, which of these rows the next step's rows come from.
    """

    weights: list[Floats] = field(default_factory=list)
    parents: list[Integers] = field(default_factory=list)

    def along(self, rows: Integers) -> list[Floats]:
        """The weights of some hypotheses at every step, `[T, S]` each.

        Args:
            rows: which rows the last step extended to them.
        """
        path = [rows]
        for parents in reversed(self.parents):
            path.append(parents[path[-1]])
        steps = zip(self.weights, reversed(path), strict=True)
        return list(np.stack([weights[at] for weights, at in steps], axis=1))
