"""`seqwright prepare`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from seqwright.cli.console import STDERR
from seqwright.cli.options import path_option
from seqwright.console import can_show_bars
from seqwright.remote import LocalCopies

if TYPE_CHECKING:
    from seqwright.data.prepare import PrepareReport
    from seqwright.data.splits import Lengths, SplitReport


def prepare_command(
    train_source: Annotated[str, path_option(help="Training text, one sequence a line; .gz is decompressed.")],
    train_target: Annotated[str, path_option(help="Its translation, line by line.")],
    output: Annotated[str, path_option(help="Folder to write; it must not exist, or be empty.")],
    val_source: Annotated[str | None, path_option(help="Validation text.")] = None,
    val_target: Annotated[str | None, path_option(help="Its translation, line by line.")] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the training pairs to set aside as validation text, e.g. 0.02.")
    ] = None,
    single_vocab: Annotated[
        bool, typer.Option("--single-vocab", help="One vocabulary for both sides; the source's options shape it.")
    ] = False,
    num_words_source: Annotated[
        int, typer.Option(min=1, help="Most frequent words to keep, besides the special tokens.")
    ] = 50_000,
    num_words_target: Annotated[int, typer.Option(min=1, help="The same for the target.")] = 50_000,
    word_min_count_source: Annotated[int, typer.Option(min=1, help="Leave out words that are rarer.")] = 1,
    word_min_count_target: Annotated[int, typer.Option(min=1, help="The same for the target.")] = 1,
    vocab_source_json: Annotated[
        str | None, path_option(help="Vocabulary to use as it is in place of a new one, with --vocab-target-json.")
    ] = None,
    vocab_target_json: Annotated[str | None, path_option(help="The same for the target.")] = None,
) -> None:
    """Turn parallel text into training data: RecordIO-Protobuf files and vocabularies."""
    from seqwright.data.prepare import prepare

    with LocalCopies(STDERR) as copies:
        prepare_files = partial(
            prepare,
            output=copies.write_folder(output),
            train_source=copies.read(train_source),
            train_target=copies.read(train_target),
            validation_source=copies.read_if_given(val_source),
            validation_target=copies.read_if_given(val_target),
            val_fraction=val_fraction,
            single_vocab=single_vocab,
            num_words_source=num_words_source,
            num_words_target=num_words_target,
            word_min_count_source=word_min_count_source,
            word_min_count_target=word_min_count_target,
            vocab_source=copies.read_if_given(vocab_source_json),
            vocab_target=copies.read_if_given(vocab_target_json),
        )
        with Progress(console=STDERR, transient=True, disable=not can_show_bars(STDERR)) as bar:
            task = bar.add_task("reading", total=None)
            report = prepare_files(progress=lambda done, total: bar.update(task, completed=done, total=total))
    Console().print(_table(report))


def _table(report: PrepareReport) -> Table:
    """A table of what was written, with a column for each split."""
    splits = {"train": report.train}
    if report.validation is not None:
        splits["validation"] = report.validation
    table = Table("", *(Column(name, justify="right") for name in splits), box=None, pad_edge=False)
    for row in zip(*(_column(split) for split in splits.values()), strict=True):
        table.add_row(row[0][0], *(value for _, value in row))
    table.add_row("source vocabulary", f"{report.source_vocabulary:,}")
    table.add_row("target vocabulary", f"{report.target_vocabulary:,}")
    return table


def _column(split: SplitReport) -> list[tuple[str, str]]:
    return [
        ("pairs kept", f"{split.pairs:,}"),
        ("dropped, source empty", f"{split.empty_source:,}"),
        ("dropped, target empty", f"{split.empty_target:,}"),
        ("dropped, both empty", f"{split.empty_both:,}"),
        ("source tokens", f"{split.source_tokens:,}"),
        ("target tokens", f"{split.target_tokens:,}"),
        ("source unknown", f"{split.source_unknown_rate:.2%}"),
        ("target unknown", f"{split.target_unknown_rate:.2%}"),
        *_lengths("source", split.source_lengths),
        *_lengths("target", split.target_lengths),
    ]


def _lengths(side: str, lengths: Lengths) -> list[tuple[str, str]]:
    from seqwright.data.splits import DEFAULT_MAX_LENGTH

    return [
        (f"{side} length, median", f"{lengths.median:,}"),
        (f"{side} length, 95 %", f"{lengths.percentile_95:,}"),
        (f"{side} length, longest", f"{lengths.longest:,}"),
        (f"{side} longer than {DEFAULT_MAX_LENGTH}", f"{lengths.over_default:.2%}"),
    ]
