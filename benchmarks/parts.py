"""Where an update of training spends its time, part by part.

    python benchmarks/parts.py [--pairs 64] [--tokens 15] [--vocabulary 8000] [--precision fp32] [--repeats 20]

The model of `speed.py` (LSTM of 512 units, embeddings of 512, mlp attention), random ids. Each part is run forward and
backward alone, from inputs that are there already; medians. Prints a table, and one JSON object on the last line. The
arithmetic is that of the parts' matrix products: 2 for an element of a weight and row, thrice for forward and backward.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from seqwright.data.batches import Batch
from seqwright.devices import autocast, choose_precision, keep_freed_memory
from seqwright.hyperparameters import Hyperparameters
from seqwright.models.loss import batch_loss, output_loss
from seqwright.models.seq2seq import build_model
from seqwright.training.optimizers import build_optimizer

WIDTH = 512
WARM = 3


def batch_of(pairs: int, tokens: int, vocabulary: int) -> Batch:
    """A batch of random ids, all sequences of one length."""
    source, target = torch.randint(4, vocabulary, (2, pairs, tokens))
    lengths = torch.full((pairs,), tokens)
    return Batch(source, lengths, target, target, lengths, np.arange(pairs), pairs * tokens)


def seconds(run: Callable[[], None], repeats: int) -> float:
    """The median time of a run, after a few that do not count."""
    times = []
    for _ in range(WARM + repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=15)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(1)
    device = torch.device("cpu")
    precision = choose_precision(options.precision, device)
    settings = Hyperparameters(rnn_num_hidden=WIDTH, num_embed_source=WIDTH, num_embed_target=WIDTH)
    model = build_model(settings, options.vocabulary, options.vocabulary)
    optimizer = build_optimizer(settings, dict(model.named_parameters()))
    batch = batch_of(options.pairs, options.tokens, options.vocabulary)
    with torch.no_grad():
        encoded = model.encode(batch.source, batch.source_lengths)
        hidden = model.decoder(encoded, batch.target_in).flatten(0, 1)

    def backward(result: Tensor) -> None:
        result.backward(torch.ones_like(result))  # type: ignore[no-untyped-call]
        model.zero_grad()

    def encoder() -> None:
        with autocast(device, precision):
            states = model.encode(batch.source, batch.source_lengths).states
        backward(states)

    def decoder() -> None:
        fresh = replace(encoded, states=encoded.states.requires_grad_(), last=encoded.last.requires_grad_())
        with autocast(device, precision):
            hiddens = model.decoder(fresh, batch.target_in)
        backward(hiddens)

    def output() -> None:
        rows = hidden.to(torch.bfloat16 if precision == "bf16" else torch.float32).requires_grad_()
        layer = model.output_layer
        backward(output_loss(rows, layer.weight, layer.bias, batch.target_out.flatten(), 0.0)[1])

    def whole() -> None:
        optimizer.zero_grad()
        with autocast(device, precision):
            scored = batch_loss(model, batch, divisor=batch.num_tokens)
        scored.objective.backward()  # type: ignore[no-untyped-call]
        update()

    def update() -> None:
        torch._foreach_norm([each.grad for each in model.parameters() if each.grad is not None])
        optimizer.step()

    rows = 6 * options.pairs * options.tokens
    half = WIDTH // 2
    flops = {
        "encoder": rows * 2 * 4 * half * (WIDTH + half),
        "decoder": rows * (4 * WIDTH * 3 * WIDTH + WIDTH * WIDTH + WIDTH * 2 * WIDTH),
        "output layer and loss": rows * options.vocabulary * WIDTH,
    }
    flops["whole update"] = sum(flops.values())
    runs = {
        "encoder": encoder,
        "decoder": decoder,
        "output layer and loss": output,
        "whole update": whole,
        "norms and Adam": update,  # of the gradients that the one before has left
    }
    found = {name: seconds(run, options.repeats) for name, run in runs.items()}
    table = Table("part", "ms", "GFLOP", "GFLOP/s", box=None)
    for name, took in found.items():
        products = [f"{flops[name] / 1e9:.0f}", f"{flops[name] / 1e9 / took:.0f}"] if name in flops else []
        table.add_row(name, f"{1000 * took:.0f}", *products)
    Console(stderr=True).print(table)
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, **vars(options), **found}))


if __name__ == "__main__":
    main()
