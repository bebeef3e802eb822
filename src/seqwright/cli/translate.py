"""`seqwright translate`."""

import enum
from typing import Annotated

import typer

from seqwright.cli.console import STDERR
from seqwright.cli.options import (
    BeamSizeOption,
    DeviceOption,
    MaxOutputLengthOption,
    ModelOption,
    PrecisionOption,
    path_option,
)
from seqwright.remote import LocalCopies


class Format(enum.StrEnum):
    """What a line of output holds."""

    TEXT = "text"
    JSON = "json"


def translate_command(
    model: ModelOption,
    input: Annotated[  # noqa: A002 - the option is called --input
        str | None,
        path_option(
            help="Text, .jsonl or .rec file; text from standard input if not given or -.", standard_stream=True
        ),
    ] = None,
    output: Annotated[
        str | None, path_option(help="File to write; standard output if not given or -.", standard_stream=True)
    ] = None,
    beam_size: BeamSizeOption = None,
    nbest: Annotated[
        int, typer.Option(min=1, max=10_000, help="Translations a sequence, best first, as many lines of text.")
    ] = 1,
    max_output_length: MaxOutputLengthOption = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1_000_000, help="Sequences searched together.")] = 64,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an interrupted run left.")] = False,
    format: Annotated[Format, typer.Option(help="Plain text, or JSON with scores and attention.")] = Format.TEXT,  # noqa: A002
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    processes: Annotated[
        str,
        typer.Option(
            metavar="auto|N", help="Processes that translate, for large files; auto: one a GPU, or one a core."
        ),
    ] = "1",
) -> None:
    """Translate a file, one sequence of white-space separated tokens a line, or records of ids."""
    from seqwright.inference.bulk import translate_file
    from seqwright.inference.options import SearchOptions
    from seqwright.inference.pool import load_translators

    options = SearchOptions(beam_size=beam_size, nbest=nbest, max_output_length=max_output_length)
    with LocalCopies(STDERR) as copies:
        target = copies.write_file(output) if output and output != "-" else None
        source = copies.read(input) if input and input != "-" else None
        path = copies.read(model)
        with load_translators(path, device, precision, processes) as translator:
            translate_file(
                translator,
                source=source,
                target=target,
                as_json=format is Format.JSON,
                options=options,
                batch_size=batch_size,
                resume=resume,
                model=path,
                console=STDERR,
            )
