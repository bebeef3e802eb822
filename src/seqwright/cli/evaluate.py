"""`seqwright evaluate`."""

import json
from typing import Annotated

from seqwright.cli.console import STDERR
from seqwright.cli.options import BeamSizeOption, DeviceOption, ModelOption, PrecisionOption, path_option
from seqwright.remote import LocalCopies


def evaluate_command(
    model: ModelOption,
    source: Annotated[str, path_option(help="Source text, one sequence a line.")],
    target: Annotated[str, path_option(help="Reference text, line by line.")],
    beam_size: BeamSizeOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Score a model on parallel text; prints one JSON object."""
    from seqwright.inference.evaluation import evaluate
    from seqwright.inference.translator import Translator

    with LocalCopies(STDERR) as copies:
        translator = Translator.load(copies.read(model), device, precision)
        scores = evaluate(translator, copies.read(source), copies.read(target), beam_size=beam_size)
    print(json.dumps(scores))
