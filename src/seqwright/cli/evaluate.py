"""`seqwright evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from seqwright.cli.options import DeviceOption, ModelOption, PrecisionOption


def evaluate_command(
    model: ModelOption,
    source: Annotated[Path, typer.Option(help="Source text, one sequence a line.")],
    target: Annotated[Path, typer.Option(help="Reference text, line by line.")],
    beam_size: Annotated[
        int | None, typer.Option(min=1, help="Hypotheses kept; the model's beam_size if not given.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Score a model on parallel text; prints one JSON object."""
    from seqwright.inference.evaluation import evaluate
    from seqwright.inference.translator import Translator

    scores = evaluate(Translator.load(model, device, precision), source, target, beam_size=beam_size)
    print(json.dumps(scores))
