"""One beam search for every model.

It is the original's search: a hypothesis that ends has its negative log probability divided by its length, and from
then on competes with that score; the search of a sentence ends when all K hypotheses have ended, or earlier, when the
rest of it cannot change the result. The probability includes that of EOS, the length does not count it. A hypothesis
that is cut off keeps its whole negative log probability. (The original never keeps an empty hypothesis beside others,
for its length is 0; here it counts as 1.)

The model's part of a step runs where the model is. The hypotheses and their costs are NumPy arrays: they are so small
that the number of operations counts, and NumPy's take a quarter of the time of PyTorch's.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqwright.data.vocabulary import BOS, EOS, PAD
from seqwright.errors import ClientError
from seqwright.inference.options import SearchOptions
from seqwright.models.protocols import SearchModel

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
    """The model's probabilities are not finite numbers."""

    def __init__(self) -> None:
        super().__init__(
            "the model gives no finite probabilities: its weights are too large, or its training has diverged"
        )


@torch.inference_mode()
def beam_search(
    model: SearchModel,
    source: Tensor,
    lengths: Tensor,
    max_lengths: Tensor,
    options: Sequence[SearchOptions],
    *,
    on_found: Callable[[int, list[Hypothesis]], None],
    cancelled: Callable[[], Collection[int]] | None = None,
) -> Iterator[None]:
    """Search for the best translations of a batch, one step for each `next`: so several searches can take turns.

    Args:
        model: the model, in evaluation mode.
        source: source ids, `[B, S]`.
        lengths: their real lengths, at least 1, `[B]`.
        max_lengths: steps after which a sentence's open hypotheses are cut off, EOS counted, at least 1, `[B]`.
        options: the options of each sentence, with the same `batch_key`. `max_output_length` is not read: it is in
            `max_lengths`.
        on_found: called with each sentence's number as soon as its search ends, and its `nbest` hypotheses, best first;
            fewer where the vocabulary cannot give so many.
        cancelled: called after every step for the numbers of sentences that are no longer wanted. They leave the batch,
            and `on_found` is not called for them; the other sentences' hypotheses do not depend on them.

    Raises:
        NotFiniteError: a sentence has no hypothesis of finite cost.
        ValueError: the options differ in their `batch_key`.
    """
    if len({each.batch_key for each in options}) != 1:
        raise ValueError("sentences that are searched together need the same beam size, and all or none attention")
    beam_size = options[0].beam_size or 1
    history = _AttentionHistory() if options[0].attention else None
    state = model.start(source, lengths)
    active, limits = np.arange(len(source)), max_lengths.cpu().numpy()  # [B]
    nbest = np.array([each.nbest for each in options])
    open_costs: Floats = np.zeros((len(source), 1), dtype=np.float32)  # [B, W]: W = 1 at first, then K
    ended_scores = np.full_like(open_costs, np.inf)
    tokens: Integers = np.full(open_costs.shape, BOS)
    prefixes: Integers = np.empty((*tokens.shape, 0), dtype=tokens.dtype)  # [B, W, T]

    while len(active):
        length, width = prefixes.shape[2], tokens.shape[1]
        open_rows = np.flatnonzero(open_costs < np.inf)
        log_probabilities, weights, state = model.step(
            _tensor(tokens, source.device),
            state,
            None if len(open_rows) == tokens.size else _tensor(open_rows, source.device),
        )
        costs, parents, tokens = _extend(open_costs, ended_scores, open_rows, log_probabilities, beam_size)  # [B, K]
        ends = tokens == EOS
        finished = ends | (tokens == PAD)
        scores = np.where(ends, costs / max(length, 1), costs)
        open_costs, ended_scores = np.where(finished, _INFINITE, scores), np.where(finished, scores, _INFINITE)

        sentences = np.arange(len(active))[:, None]
        prefixes = np.concatenate([prefixes[sentences, parents], tokens[:, :, None]], axis=2)
        rows = sentences * width + parents  # the row of the step that each hypothesis extends
        if history is not None:
            history.weights.append(weights.float().cpu().numpy())

        yield
        done = _cannot_change(open_costs, ended_scores, limits, nbest) | (limits <= length + 1)
        gone = set(cancelled()) if cancelled is not None else set[int]()
        if gone:
            done |= np.isin(active, list(gone))
        if not done.any():
            state = state.select_hypotheses(_tensor(rows, source.device))
            if history is not None:
                history.parents.append(rows.ravel())
            continue
        for index in np.flatnonzero(done).tolist():
            number = int(active[index])
            if number in gone:
                continue
            best = _rank(scores[index], finished[index])[: nbest[index]]
            if not best:
                raise NotFiniteError
            attention = [None] * len(best) if history is None else history.trace(rows[index, best])
            found = zip(best, attention, strict=True)
            on_found(number, [_hypothesis(prefixes[index, i], scores[index, i], each) for i, each in found])
        keep = np.flatnonzero(~done)
        state = state.select_sentences(_tensor(keep, source.device), _tensor(rows[keep], source.device))
        if history is not None:
            history.parents.append(rows[keep].ravel())
        prefixes, tokens, active = prefixes[keep], tokens[keep], active[keep]
        limits, nbest = limits[keep], nbest[keep]
        open_costs, ended_scores = open_costs[keep], ended_scores[keep]


def _tensor(numbers: Integers, device: torch.device) -> Tensor:
    """The numbers as a flat tensor."""
    return torch.from_numpy(numbers.ravel()).to(device)


def _extend(
    open_costs: Floats, ended_scores: Floats, open_rows: Integers, log_probabilities: Tensor, beam_size: int
) -> tuple[Floats, Integers, Integers]:
    """The cheapest extensions of each sentence's W hypotheses: K of them, or as many as there are.

    The K best of all are among the K best of each hypothesis: so the vocabulary is searched for one hypothesis at a
    time, and only for open ones.

    Args:
        open_costs: costs of open hypotheses, infinite where one has ended, `[B, W]`.
        ended_scores: scores of hypotheses that have ended, infinite where one is open; they are extended by PAD alone,
            at no cost, `[B, W]`.
        open_rows: which of the B·W hypotheses are open, `[M]`.
        log_probabilities: of the next token of the open hypotheses, `[M, V]`; changed.
        beam_size: hypotheses kept for each sentence, K.

    Returns:
        The new costs, the parents' numbers within the beam, and the tokens, all `[B, K]`, cheapest first.
    """
    log_probabilities[:, BOS] = log_probabilities[:, PAD] = -torch.inf
    gains, words = (each.cpu().numpy() for each in _largest(log_probabilities, beam_size))  # [M, K]

    count = words.shape[1]
    costs_so_far = open_costs.ravel()
    extended = np.full((len(costs_so_far), count + 1), _INFINITE)  # [B·W, K + 1]: the last column is for PAD
    extended[open_rows, :count] = costs_so_far[open_rows, None] - gains
    extended[:, count] = ended_scores.ravel()
    following = np.full(extended.shape, PAD)
    following[open_rows, :count] = words
    candidates = extended.reshape(len(open_costs), -1)  # [B, W·(K + 1)]
    chosen = candidates.argsort(axis=1)[:, :beam_size]
    sentences = np.arange(len(chosen))[:, None]
    tokens = following.reshape(candidates.shape)[sentences, chosen]
    return candidates[sentences, chosen], chosen // (count + 1), tokens


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of `values` `[M, V]`, or all if there are fewer, and their columns.

    The largest lie in the groups that have the largest maxima: most of a long row is only read once, for these maxima,
    in a third of the time of PyTorch's `topk` on a CPU.
    """
    rows, columns = values.shape
    groups = columns // _GROUP
    if groups <= count:
        return values.topk(min(count, columns), dim=1)
    numbers = torch.arange(columns, device=values.device)
    maxima = values[:, : groups * _GROUP].view(rows, groups, _GROUP).amax(2)
    members = maxima.topk(count, dim=1).indices.unsqueeze(2) * _GROUP + numbers[:_GROUP]
    candidates = torch.cat([members.flatten(1), numbers[groups * _GROUP :].expand(rows, -1)], dim=1)
    best, chosen = values.gather(1, candidates).topk(count, dim=1)
    return best, candidates.gather(1, chosen)


def _cannot_change(open_costs: Floats, ended_scores: Floats, limits: Integers, nbest: Integers) -> NDArray[np.bool_]:
    """Whether a sentence's `nbest` best hypotheses cannot change any more, `[B]`.

    An open hypothesis only becomes more expensive, and its length, by which its score is divided when it ends, is
    bounded: so its score will be at least its present cost over the greatest length. Once that is no less than the
    score of the `nbest`-th ended hypothesis, neither it nor its extensions can replace that one, in the result or in
    the beam.

    Args:
        open_costs: costs of open hypotheses, infinite for others, `[B, W]`.
        ended_scores: scores of ended hypotheses, infinite for others, `[B, W]`.
        limits: steps that the search may take, EOS counted, `[B]`.
        nbest: hypotheses wanted of each sentence, at most K, `[B]`.
    """
    width = ended_scores.shape[1]
    wanted = np.sort(ended_scores, axis=1)[np.arange(len(nbest)), np.minimum(nbest, width) - 1]
    worst_wanted = np.where(nbest <= width, wanted, _INFINITE)  # [B]
    settled: NDArray[np.bool_] = open_costs.min(axis=1) / np.maximum(limits - 1, 1) >= worst_wanted
    return settled


def _rank(scores: Floats, finished: NDArray[np.bool_]) -> list[int]:
    """The hypotheses of one sentence, best first; one cut off at the length limit ranks after every one that ended.

    Args:
        scores: their scores, infinite where the beam has no such hypothesis, `[K]`.
        finished: which have ended, `[K]`.
    """
    values, ends = scores.tolist(), finished.tolist()
    real = (number for number, value in enumerate(values) if value < np.inf)
    return sorted(real, key=lambda number: (not ends[number], values[number]))


def _hypothesis(prefix: Integers, score: np.float32, attention: Floats | None) -> Hypothesis:
    """One hypothesis.

    Args:
        prefix: its tokens, EOS and the PAD after it included, `[T]`.
        score: its score.
        attention: weights over the source, `[T, S]`, where asked for.
    """
    ids = [token for token in prefix.tolist() if token not in (PAD, EOS)]
    return Hypothesis(ids, float(score), None if attention is None else attention[: len(ids)])


@dataclass(frozen=True)
class _AttentionHistory:
    """The attention weights of all steps of a batch. They are followed back from the end of a hypothesis, so that no
    step copies the steps before it.

    Attributes:
        weights: for every step, the weights of the hypotheses that it extended, `[rows, S]`.
        parents: for every step, the row from which each row of the next step comes.
    """

    weights: list[Floats] = field(default_factory=list)
    parents: list[Integers] = field(default_factory=list)

    def trace(self, rows: Integers) -> list[Floats]:
        """The weights of some hypotheses at every step, `[T, S]` each.

        Args:
            rows: the rows of the last step from which the hypotheses come.
        """
        path = [rows]
        for parents in reversed(self.parents):
            path.append(parents[path[-1]])
        steps = zip(self.weights, reversed(path), strict=True)
        return list(np.stack([weights[at] for weights, at in steps], axis=1))
