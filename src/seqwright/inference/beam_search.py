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
from torch import Tensor

from seqwright.data.vocabulary import BOS, EOS, PAD
from seqwright.models.prepared import SearchModel
from seqwright.models.protocols import select_hypotheses, select_sentences


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
    state = select_hypotheses(state, torch.arange(batch, device=device).repeat_interleave(beam_size))
    active = torch.arange(batch, device=device)
    scores = torch.full((batch, beam_size), torch.inf, device=device)
    scores[:, 0] = 0
    finished = torch.zeros(batch, beam_size, dtype=torch.bool, device=device)
    tokens = torch.full((batch, beam_size), BOS, device=device)
    prefixes = tokens.new_empty(batch * beam_size, 0)
    looked = scores.new_empty(batch * beam_size, 0, source.shape[1])

    while len(active):
        hidden, weights, state = model.decoder.step(tokens.flatten(), state)
        costs = -torch.log_softmax(model.logits(hidden).float(), dim=1).view(*scores.shape, -1)
        scores, parents, tokens = _extend(scores, finished, costs)
        finished = finished.gather(1, parents)
        ended = ~finished & (tokens == EOS)
        scores = torch.where(ended, scores / max(prefixes.shape[1], 1), scores)
        finished |= ended

        rows = (parents + torch.arange(len(active), device=device).unsqueeze(1) * beam_size).flatten()
        prefixes = torch.cat([prefixes.index_select(0, rows), tokens.view(-1, 1)], dim=1)
        if attention:
            looked = torch.cat([looked, weights.unsqueeze(1)], dim=1).index_select(0, rows)

        done = _is_settled(scores, finished, max_lengths, nbest) | (max_lengths <= prefixes.shape[1])
        unwanted = set(abandoned()) if abandoned is not None else set[int]()
        if unwanted:
            done |= torch.isin(active, torch.tensor(list(unwanted), device=device))
        if not done.any():
            state = select_hypotheses(state, rows)
            continue
        numbers = active.tolist()
        by_sentence = prefixes.view(len(active), beam_size, -1)
        looked_by_sentence = looked.view(len(active), beam_size, *looked.shape[1:])
        for place in done.nonzero().squeeze(1).tolist():
            if numbers[place] in unwanted:
                continue
            seen = looked_by_sentence[place] if attention else None
            hypotheses = _rank(by_sentence[place], scores[place], finished[place], seen)
            found(numbers[place], hypotheses[:nbest])
        keep = (~done).nonzero().squeeze(1)
        state = select_sentences(state, keep, rows.view(-1, beam_size)[keep].flatten())
        prefixes, looked = by_sentence[keep].flatten(0, 1), looked_by_sentence[keep].flatten(0, 1)
        active, tokens, scores, finished = active[keep], tokens[keep], scores[keep], finished[keep]
        max_lengths = max_lengths[keep]


def _extend(scores: Tensor, finished: Tensor, costs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The K cheapest extensions of each sentence's K hypotheses.

    Args:
        scores: what the hypotheses cost so far, `[B, K]`.
        finished: which have ended: they extend by PAD alone, at no cost, `[B, K]`.
        costs: negative log probabilities of the next token, `[B, K, V]`; overwritten.

    Returns:
        The new scores, the parents' numbers within the beam, and the tokens, all `[B, K]`, cheapest first.
    """
    vocab_size = costs.shape[2]
    costs[:, :, [PAD, BOS]] = torch.inf
    costs.masked_fill_(finished.unsqueeze(2), torch.inf)
    costs[:, :, PAD].masked_fill_(finished, 0)
    totals = (scores.unsqueeze(2) + costs).flatten(1)
    best, chosen = totals.topk(scores.shape[1], dim=1, largest=False)
    return best, chosen // vocab_size, chosen % vocab_size


def _is_settled(scores: Tensor, finished: Tensor, max_lengths: Tensor, nbest: int) -> Tensor:
    """Whether a sentence's `nbest` best hypotheses cannot change any more, `[B]`.

    An open hypothesis only gets more expensive, and its length, which divides its score when it ends, is bounded: so
    its score will be at least what it costs now over the greatest length. Once that is more than what the `nbest`-th
    ended hypothesis costs, neither it nor what comes of it can take that one's place, in the result or in the beam.

    Args:
        scores: what the hypotheses cost, infinite where the beam has no such hypothesis, `[B, K]`.
        finished: which have ended, `[B, K]`.
        max_lengths: steps that the search may take, EOS counted, `[B]`.
        nbest: hypotheses wanted, at most K.
    """
    worst_wanted = scores.masked_fill(~finished, torch.inf).kthvalue(nbest, dim=1).values
    cheapest_open = scores.masked_fill(finished, torch.inf).amin(1)
    return cheapest_open.isinf() | (cheapest_open / (max_lengths - 1).clamp(min=1) > worst_wanted)


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
