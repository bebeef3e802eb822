"""Time of a search step for every kind of decoder, on models with random weights.

    python benchmarks/decoders.py [--source OTHER/src] [--repeats 5]

Prints milliseconds of processor time a step for 16 sentences with a beam of 5: 512 units, a vocabulary of 8,000,
sources of 20 tokens, one thread. With `--source`, another checkout's code is timed in turn with this one, and the
ratio of each turn is taken.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from seqwright.artifacts import LengthRatio, TrainedModel
from seqwright.data.vocabulary import EOS, SPECIAL_TOKENS, Vocabulary
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.translator import Translator
from seqwright.models.seq2seq import build_model, initialize_model

SENTENCES, SOURCE_LENGTH, VOCABULARY = 16, 20, 8000
SHORT, LONG = 5, 45
"""Tokens of a translation. The difference of both times is that of steps alone, without the encoder."""

CNN: Mapping[str, object] = {"encoder_type": "cnn", "decoder_type": "cnn"}
DECODERS: Mapping[str, Mapping[str, object]] = {
    "LSTM, mlp attention": {},
    "LSTM, dot attention": {"rnn_attention_type": "dot"},
    "LSTM, bilinear attention": {"rnn_attention_type": "bilinear"},
    "LSTM, no attention (fixed)": {"rnn_attention_type": "fixed"},
    "2 LSTM layers": {"num_layers_decoder": 2},
    "GRU": {"rnn_cell_type": "gru"},
    "2 GRU layers, dot attention": {"rnn_cell_type": "gru", "num_layers_decoder": 2, "rnn_attention_type": "dot"},
    "CNN, 3 layers": {**CNN, "num_layers_decoder": 3, "cnn_kernel_width_decoder": 3},
}


def main() -> None:
    """Time all decoders, or one as a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="the src folder of another checkout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(milliseconds_a_step(DECODERS[options.child]))
        return
    here = Path(__file__).parents[1] / "src"
    sources = [here, options.source.resolve()] if options.source else [here]
    table = Table("decoder", "ms a step", *(("other", "times as fast (least, greatest)") if options.source else ()))
    for name in DECODERS:
        turns = [[child(source, name) for source in sources] for _ in range(options.repeats)]
        row = [f"{statistics.median(times):.1f}" for times in zip(*turns, strict=True)]
        if options.source:
            ratios = [turn[1] / turn[0] for turn in turns]
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})")
        table.add_row(name, *row)
    Console(width=100).print(table)


def child(source: Path, name: str) -> float:
    """The time of a decoder with the code of `source`, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, __file__, "--child", name]
    return float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def milliseconds_a_step(settings: Mapping[str, object]) -> float:
    """The time of a search step of a decoder with these hyperparameters."""
    torch.set_num_threads(1)
    chosen = Hyperparameters.parse({"rnn_num_hidden": 512, "cnn_num_hidden": 512, **settings})
    words = Vocabulary([*SPECIAL_TOKENS, *(f"w{i}" for i in range(len(SPECIAL_TOKENS), VOCABULARY))])
    model = build_model(chosen, VOCABULARY, VOCABULARY)
    initialize_model(model, chosen, seed=1)
    with torch.no_grad():
        model.output_layer.bias[EOS] = -100  # no hypothesis ends before the limit
    trained = TrainedModel(model.eval(), chosen, words, words, LengthRatio(mean=1.0, std=0.0))
    translator = Translator(trained, torch.device("cpu"), "fp32")
    sources = torch.randint(4, VOCABULARY, (SENTENCES, SOURCE_LENGTH), generator=torch.Generator().manual_seed(1))

    def seconds(length: int) -> float:
        started = time.process_time()
        translator.translate_ids(sources.tolist(), batch_size=SENTENCES, max_output_length=length)
        return time.process_time() - started

    seconds(SHORT)  # packs weights, warms caches
    return 1000 * (min(seconds(LONG) for _ in range(2)) - min(seconds(SHORT) for _ in range(2))) / (LONG - SHORT)


if __name__ == "__main__":
    main()
