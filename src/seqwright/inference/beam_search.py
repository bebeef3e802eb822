"""One beam search for every decoder.

It is the original's search: a hypothesis that ends has its negative log probability divided by its length, and from
then on competes with that score; the search of a sentence ends when all K hypotheses have ended. The probability
includes that of EOS, the length does not count it. A hypothesis that is cut off keeps its whole negative log
probability. (The original never keeps an empty hypothesis beside others, for its length is 0; here it counts as 1.)
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


@dataclass(frozen=True)
class _Step:
    """What one step chose; a sentence that had ended before extends each hypothesis by PAD.

    Attributes:
        parents: the hypothesis that each new one extends, `[B, K]`.
        tokens: the token that extends it, `[B, K]`.
        attention: the extended hypotheses' weights over the source, `[B, K, S]`, where asked for.
    """

    parents: Tensor
    tokens: Tensor
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
    abandoned: Callable[[], Collection[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Find the best translations of a batch.

    Args:
        model: the model, in evaluation mode.
        source: source ids, `[B, S]`.
        lengths: their real lengths, at least 1, `[B]`.
        beam_size: hypotheses kept a sentence, K; 1 is greedy search.
        max_lengths: steps after which a sentence's open hypotheses are cut off, EOS counted, at least 1, `[B]`.
        nbest: hypotheses returned a sentence, at most K.
        attention: whether to return attention weights.
        abandoned: asked after every step for the numbers of sentences that nobody wants any more. They leave the
            batch with what they have; the others' hypotheses are what they would have been.

    Returns:
        For each sentence its `nbest` hypotheses, best first; fewer where the vocabulary cannot give so many.
    """
    batch, device = len(source), source.device
    state = model.decoder.start(model.encode(source, lengths))
    state = select_hypotheses(state, torch.arange(batch, device=device).repeat_interleave(beam_size))
    active = torch.arange(batch, device=device)
    beams = torch.arange(beam_size, device=device).repeat(batch, 1)
    tokens = torch.full((batch, beam_size), BOS, device=device)
    scores = torch.full((batch, beam_size), torch.inf, device=device)
    scores[:, 0] = 0
    finished = torch.zeros(batch, beam_size, dtype=torch.bool, device=device)
    final_scores, final_finished = scores.clone(), finished.clone()
    steps: list[_Step] = []

    while len(active):
        hidden, weights, state = model.decoder.step(tokens.flatten(), state)
        costs = -torch.log_softmax(model.logits(hidden).float(), dim=1).view(*scores.shape, -1)
        scores, parents, tokens = _extend(scores, finished, costs)
        finished = finished.gather(1, parents)
        ended = ~finished & (tokens == EOS)
        scores = torch.where(ended, scores / max(len(steps), 1), scores)
        finished |= ended

        looked = None
        if attention:
            by_beam = weights.view(*parents.shape, -1).gather(1, parents.unsqueeze(2).expand(-1, -1, source.shape[1]))
            looked = by_beam.new_zeros(batch, beam_size, source.shape[1]).index_copy(0, active, by_beam)
        everywhere = torch.full_like(beams, PAD).index_copy(0, active, tokens)
        steps.append(_Step(beams.index_copy(0, active, parents), everywhere, looked))

        done = (finished | scores.isinf()).all(1) | (max_lengths[active] <= len(steps))
        if abandoned is not None and (unwanted := abandoned()):
            done |= torch.isin(active, torch.tensor(list(unwanted), device=device))
        final_scores[active[done]] = scores[done]
        final_finished[active[done]] = finished[done]
        rows = parents + torch.arange(len(active), device=device).unsqueeze(1) * beam_size
        keep = (~done).nonzero().squeeze(1)
        state = select_sentences(state, keep, rows[keep].flatten())
        active, tokens, scores, finished = active[keep], tokens[keep], scores[keep], finished[keep]

    return _read_back(steps, final_scores, final_finished, nbest)


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


def _read_back(steps: list[_Step], scores: Tensor, finished: Tensor, nbest: int) -> list[list[Hypothesis]]:
    """Follow the parents of each sentence's best hypotheses from the last step to the first.

    A hypothesis cut off at the length limit ranks after every one that ended.
    """
    ranked = torch.where(finished, scores, scores + _CUT_OFF).argsort(dim=1, stable=True)[:, :nbest]
    tokens, looked, beams = [], [], ranked
    for step in reversed(steps):
        tokens.append(step.tokens.gather(1, beams))
        if step.attention is not None:
            looked.append(step.attention.gather(1, beams.unsqueeze(2).expand(-1, -1, step.attention.shape[2])))
        beams = step.parents.gather(1, beams)
    ids = torch.stack(tokens[::-1], dim=2).cpu()
    attention = torch.stack(looked[::-1], dim=2).cpu() if looked else None
    lengths = ((ids != PAD) & (ids != EOS)).sum(2).tolist()
    values = scores.gather(1, ranked).tolist()
    results: list[list[Hypothesis]] = [[] for _ in values]
    for sentence, hypotheses in enumerate(results):
        for rank, (score, length) in enumerate(zip(values[sentence], lengths[sentence], strict=True)):
            if score < torch.inf:
                weights = attention[sentence, rank, :length] if attention is not None else None
                hypotheses.append(Hypothesis(ids[sentence, rank, :length].tolist(), score, weights))
    return results


_CUT_OFF = 1e6
"""More than any score: ranks hypotheses that never ended after those that did."""
