"""The jobs of `speed.py` that run in a process of their own: training, translation, and what speed costs in quality.

    python benchmarks/speed_jobs.py JOB --data DIR …

Prints one JSON object of figures by name.
"""

import argparse
import contextlib
import json
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from seqwright.artifacts import load_model
from seqwright.devices import Precision, choose_precision, computes_in_bf16
from seqwright.inference.translator import Translator
from seqwright.metrics import bleu
from seqwright.models.seq2seq import Seq2Seq
from seqwright.training.job import Channels, train
from seqwright.training.progress import Monitor, Progress, Update

SETTINGS: dict[str, dict[str, object]] = {
    "train": {"rnn_num_hidden": 512},
    "train-cnn": {
        "encoder_type": "cnn",
        "decoder_type": "cnn",
        "cnn_num_hidden": 512,
        "num_layers_encoder": 3,
        "num_layers_decoder": 3,
    },
}
COMMON: dict[str, object] = {
    "num_embed_source": 512,
    "num_embed_target": 512,
    "batch_size": 64,
    "learning_rate": 0.0003,
    "max_seq_len_source": 60,
    "max_seq_len_target": 60,
    "checkpoint_frequency_num_batches": 100000,
}
WARM_UP = 10
"""Updates before the clock starts."""
BEAM = 5
LONE = 100
"""Sentences translated one at a time."""
QUALITY_UPDATES = 300
"""Updates after which perplexities are compared."""
GIGA = 1e9
PAIR_FLOPS = 0.87 * GIGA
"""Of the recurrent job, forward and backward."""
CPU = torch.device("cpu")
STATE_BYTES = 16
"""Of a parameter in fp32 with its gradient and Adam's two moments."""


class Clock(Monitor):
    """Times updates after the first few."""

    def __init__(self) -> None:
        self.pairs = 0
        self.started = 0.0
        self.seconds = 0.0
        self.first = 0.0

    def on_update(self, progress: Progress, update: Update) -> None:
        """Count the update's pairs."""
        self.first = self.first or time.time()
        if progress.updates == WARM_UP:
            self.started = time.perf_counter()
        elif progress.updates > WARM_UP:
            self.pairs += update.pairs
            self.seconds = time.perf_counter() - self.started


def peak_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a large matrix product, the machine's limit: the best of a few, for others share the machine."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 1024**3 / min(times) / GIGA


def child_train(kind: str) -> Callable[[argparse.Namespace], dict[str, float]]:
    """A training run that reports its rate and its peak of memory."""

    def run(options: argparse.Namespace) -> dict[str, float]:
        import_module("torch._dynamo")  # any optimizer does; it is the library's memory, not training's
        clock, longest = Clock(), Longest()
        register_module_forward_pre_hook(longest)
        before = resident()
        settings = {**COMMON, **SETTINGS[kind], "max_num_batches": options.updates}
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "model"
            cache = options.data / "cache"
            train(
                Channels.under(options.data), output, settings, cache=cache, precision=options.precision,
                monitors=[clock],
            )  # fmt: skip
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
            model = load_model(output).model.train()
        state = sum(p.numel() for p in model.parameters()) * STATE_BYTES
        rate = clock.pairs / clock.seconds if clock.pairs else 0.0
        bf16 = choose_precision(options.precision, CPU) == "bf16"
        return {
            "pairs_per_second": rate,
            "peak_share": 100 * rate * PAIR_FLOPS / GIGA / peak_rate(torch.bfloat16 if bf16 else torch.float32),
            "memory_over_state": most / state,
            "memory_ratio": most / (state + kept(model, longest.inputs)),
            "first_update": clock.first,
        }

    return run


class Longest:
    """Keeps what the model is called with for the batch with the most places, padding counted."""

    def __init__(self) -> None:
        self.inputs: tuple[torch.Tensor, ...] = ()

    def __call__(self, module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        """Look at a module's inputs: of a `Seq2Seq` in training, source ids, their lengths and target ids."""
        if isinstance(module, Seq2Seq) and module.training and places(inputs) > places(self.inputs):
            self.inputs = inputs


def places(inputs: tuple[torch.Tensor, ...]) -> int:
    """Source and target places of a batch."""
    return sum(each.numel() for each in inputs)


def kept(model: Seq2Seq, inputs: tuple[torch.Tensor, ...]) -> int:
    """Bytes that a batch takes besides the model: what encoder and decoder keep of it for the backward pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        hidden = model(*inputs)
    assert hidden.grad_fn is not None
    return sum(event.self_cpu_memory_usage for event in watched.key_averages())


def resident() -> int:
    """Memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def child_translate(options: argparse.Namespace) -> dict[str, float]:
    """Sentences a second of a thousand, and the median of a hundred one at a time."""
    lines = (options.data / "test").read_text(encoding="utf-8").splitlines()
    translator = Translator.load(options.data / "imported", precision=options.precision)
    translator.translate(lines[:64], beam_size=BEAM)
    started = time.perf_counter()
    translator.translate(lines, beam_size=BEAM)
    rate = len(lines) / (time.perf_counter() - started)
    alone = []
    for line in lines[:LONE]:
        started = time.perf_counter()
        translator.translate([line], beam_size=BEAM)
        alone.append(time.perf_counter() - started)
    return {"sentences_per_second": rate, "lone_p50": statistics.median(alone)}


def child_quality(options: argparse.Namespace) -> dict[str, float]:
    """Perplexities after as many updates in fp32 and in bf16, and BLEU of the plain and of the fast search."""
    settings = {**COMMON, **SETTINGS["train"], "max_num_batches": options.updates}
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for precision in precisions:
            with computing(precision):
                train(
                    Channels.under(options.data), scratch / precision, settings, cache=options.data / "cache",
                    precision=precision, seed=options.seed,
                )  # fmt: skip
            metrics = json.loads((scratch / precision / "metrics.json").read_text())
            found[f"perplexity, {precision}"] = float(metrics["perplexity"])
        trained = load_model(options.model or scratch / "fp32")
    sources, references = (
        (options.data / side).read_text(encoding="utf-8").splitlines() for side in ("test", "reference")
    )
    for name, precision in (("plain", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")):
        translator = Translator(trained, CPU, precision)
        if name == "plain":
            translator._model = trained.model.eval()  # what search was written for; nobody else should want it
        with computing(precision):
            translations = translator.translate(sources, beam_size=BEAM)
        score = bleu([each.tokens for each in translations], [each.split() for each in references])
        found[f"BLEU, {name}"] = score.value
    return found


def computing(precision: Precision) -> contextlib.AbstractContextManager[object]:
    """A context in which bf16 can be computed in without waiting for days."""
    if precision == "fp32" or computes_in_bf16(CPU):
        return contextlib.nullcontext()
    return RoundedProducts()  # type: ignore[no-untyped-call]


class RoundedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes bf16 matrix products as bf16 instructions do: exact products, summed in fp32, and the sum rounded."""

    NAMES = ("linear", "matmul", "mm", "addmm", "addmm_", "bmm", "baddbmm", "mv", "addmv", "dot")

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self,
        func,  # noqa: ANN001 - PyTorch's signature
        types,  # noqa: ANN001
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Widen the factors, multiply, and round."""
        named, name = dict(kwargs or {}), func.overloadpacket.__name__
        is_narrow = any(isinstance(each, torch.Tensor) and each.dtype == torch.bfloat16 for each in args)
        if name not in self.NAMES or not is_narrow:
            return func(*args, **named)
        target = args[0] if name.endswith("_") else named.pop("out", None)
        product = getattr(torch.ops.aten, name.removesuffix("_"))
        widened = tree_map_only(torch.Tensor, torch.Tensor.float, args)
        rounded = product(*widened, **named).to(torch.bfloat16)
        return target.copy_(rounded) if isinstance(target, torch.Tensor) else rounded


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    **{kind: child_train(kind) for kind in SETTINGS},
    "translate": child_translate,
    "quality": child_quality,
}


def main() -> None:
    """Run a job and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=CHILDREN)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    print(json.dumps(CHILDREN[options.job](options)))


if __name__ == "__main__":
    main()
