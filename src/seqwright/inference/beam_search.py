"""One beam search for every decoder.

It is the original's search: a hypothesis that ends has its negative log probability divided by its length, and from
then on competes with that score; the search of a sentence ends when all K hypotheses have ended, or earlier, where the
rest of it cannot change what is wanted. The probability includes that of EOS, the length does not count it. A
hypothesis that is cut off keeps its whole negative log probability. (The original never keeps an empty hypothesis
beside others, for its length is 0; here it counts as 1.)
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seqwright.data.vocabulary import BOS, EOS, PAD
from seqwright.models.prepared import SearchModel
from seqwright.models.protocols import select_hypotheses, select_sentences

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
    attention: Tensor | None


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
) -> None:
    """Find the best translations of a batch.

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
    """
    batch, device = len(source), source.device
    state = model.decoder.start(model.encode(source, lengths))
    numbers = torch.arange(batch, device=device)
    infinity = torch.tensor(torch.inf, device=device)
    active = numbers
    open_costs = torch.zeros(batch, 1, device=device)
    ended_scores = torch.full((batch, 1), torch.inf, device=device)
    tokens = torch.full((batch, 1), BOS, device=device)
    prefixes = tokens.new_empty(batch, 0)
    looked = open_costs.new_empty(batch, 0, source.shape[1])

    while len(active):
        hidden, weights, state = model.decoder.step(tokens.flatten(), state)
        length, width = prefixes.shape[1], tokens.shape[1]
        costs, parents, tokens = _extend(open_costs, ended_scores, hidden, model.logits, beam_size)
        ends = tokens == EOS
        finished = ends | (tokens == PAD)
        scores = torch.where(ends, costs / max(length, 1), costs)
        open_costs = torch.where(finished, infinity, scores)
        ended_scores = torch.where(finished, scores, infinity)

        rows = torch.add(parents, numbers[: len(active)].unsqueeze(1), alpha=width).flatten()
        prefixes = torch.cat([prefixes.index_select(0, rows), tokens.view(-1, 1)], dim=1)
        if attention:
            looked = torch.cat([looked, weights.unsqueeze(1)], dim=1).index_select(0, rows)

        done = _is_settled(open_costs, ended_scores, max_lengths, nbest) | (max_lengths <= length + 1)
        unwanted = set(abandoned()) if abandoned is not None else set[int]()
        if unwanted:
            done |= torch.isin(active, torch.tensor(list(unwanted), device=device))
        if not done.any():
            state = select_hypotheses(state, rows)
            continue
        sentences = active.tolist()
        by_sentence = prefixes.view(*tokens.shape, -1)
        looked_by_sentence = looked.view(*tokens.shape, *looked.shape[1:])
        for place in done.nonzero().squeeze(1).tolist():
            if sentences[place] in unwanted:
                continue
            seen = looked_by_sentence[place] if attention else None
            hypotheses = _rank(by_sentence[place], scores[place], finished[place], seen)
            found(sentences[place], hypotheses[:nbest])
        keep = (~done).nonzero().squeeze(1)
        state = select_sentences(state, keep, rows.view(tokens.shape).index_select(0, keep).flatten())
        prefixes, looked = (each.index_select(0, keep).flatten(0, 1) for each in (by_sentence, looked_by_sentence))
        active, tokens, open_costs, ended_scores, max_lengths = (
            each.index_select(0, keep) for each in (active, tokens, open_costs, ended_scores, max_lengths)
        )


def _extend(
    open_costs: Tensor, ended_scores: Tensor, hidden: Tensor, logits: Callable[[Tensor], Tensor], beam_size: int
) -> tuple[Tensor, Tensor, Tensor]:
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
    sentences, width = open_costs.shape
    banned = torch.tensor([BOS, PAD], device=hidden.device)
    costs_so_far = open_costs.flatten()
    rows = (costs_so_far < torch.inf).nonzero().squeeze(1)
    log_probabilities = torch.log_softmax(logits(hidden.index_select(0, rows)).float(), dim=1)
    log_probabilities.index_fill_(1, banned, -torch.inf)
    gains, words = _largest(log_probabilities, beam_size)
    count = words.shape[1]
    extended = open_costs.new_full((sentences * width, count), torch.inf)
    extended.index_copy_(0, rows, costs_so_far.index_select(0, rows).unsqueeze(1) - gains)
    tokens = words.new_full((sentences * width, count + 1), PAD)
    tokens.index_copy_(0, rows, F.pad(words, (0, 1), value=PAD))
    candidates = torch.cat([extended, ended_scores.view(-1, 1)], dim=1).view(sentences, -1)
    best, chosen = candidates.topk(min(beam_size, candidates.shape[1]), dim=1, largest=False)
    return best, chosen // (count + 1), tokens.view(sentences, -1).gather(1, chosen)


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


def _is_settled(open_costs: Tensor, ended_scores: Tensor, max_lengths: Tensor, nbest: int) -> Tensor:
    """Whether a sentence's `nbest` best hypotheses cannot change any more, `[B]`.

    An open hypothesis only gets more expensive, and its length, which divides its score when it ends, is bounded: so
    its score will be at least what it costs now over the greatest length. Once that is no less than what the
    `nbest`-th ended hypothesis costs, neither it nor what comes of it can take that one's place, in the result or in
    the beam.

    Args:
        open_costs: what open hypotheses cost, infinite for others, `[B, W]`.
        ended_scores: what ended hypotheses cost, infinite for others, `[B, W]`.
        max_lengths: steps that the search may take, EOS counted, `[B]`.
        nbest: hypotheses wanted, at most K.
    """
    if nbest > ended_scores.shape[1]:
        return open_costs.amin(1).isinf()
    worst_wanted = ended_scores.amin(1) if nbest == 1 else ended_scores.topk(nbest, dim=1, largest=False).values.amax(1)
    return open_costs.amin(1) / (max_lengths - 1).clamp(min=1) >= worst_wanted


def _rank(prefixes: Tensor, scores: Tensor, finished: Tensor, attention: Tensor | None) -> list[Hypothesis]:
    """The hypotheses of one sentence, best first; one cut off at the length limit ranks after every one that ended.

    Args:
        prefixes: their tokens, EOS and the PAD after it included, `[K, T]`.
        scores: what they cost, infinite where the beam has no such hypothesis, `[K]`.
        finished: which have ended, `[K]`.
        attention: weights over the source, `[K, T, S]`, where asked for.
    """
    ids = [[token for token in tokens if token not in (PAD, EOS)] for tokens in prefixes.tolist()]
    values, ends = scores.tolist(), finished.tolist()
    real = (number for number, value in enumerate(values) if value < torch.inf)
    best = sorted(real, key=lambda number: (not ends[number], values[number]))
    return [
        Hypothesis(ids[i], values[i], None if attention is None else attention[i, : len(ids[i])].cpu()) for i in best
    ]
