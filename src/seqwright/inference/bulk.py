"""Translating whole files, a block of lines at a time, in order."""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress

from seqwright.data.text import decode_blocks, read_blocks
from seqwright.files import explained, writing
from seqwright.inference.translator import Translation, Translator


def translate_file(
    translator: Translator,
    *,
    source: Path | None,
    target: Path | None,
    as_json: bool = False,
    beam_size: int | None = None,
    nbest: int = 1,
    batch_size: int = 64,
    console: Console | None = None,
) -> None:
    """Translate text, one sequence of white-space separated tokens a line.

    Args:
        translator: the model.
        source: the file to read, `.gz` too; standard input if None.
        target: the file to write, whole or not at all; standard output if None.
        as_json: write one JSON object a line, with `source`, `target`, `score`, `matrix` and, for more than one
            translation, `nbest`; else the translations alone, best first.
        beam_size: hypotheses kept; the model's own if None.
        nbest: translations a line.
        batch_size: sequences searched together.
        console: a terminal to show progress on.

    Raises:
        ClientError: a file cannot be read or written, or is not UTF-8.
    """
    block_size = 16 * batch_size if source is not None or not sys.stdin.isatty() else 1
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(_writer(target))
        advance = stack.enter_context(_progress(console, source)) if source is not None else None
        blocks = (
            read_blocks(source, block_size, advance)
            if source is not None
            else decode_blocks(sys.stdin.buffer, "standard input", block_size)
        )
        for block in blocks:
            lines = [line.split() for line in block]
            found = translator.translate(
                lines, beam_size=beam_size, nbest=nbest, attention=as_json, batch_size=batch_size
            )
            for tokens, translation in zip(lines, found, strict=True):
                out.write(_json_line(tokens, translation) if as_json else _text_lines(translation))
            out.flush()


def _text_lines(translation: Translation) -> str:
    return "".join(f"{each.text}\n" for each in (translation, *translation.alternatives))


def _json_line(tokens: list[str], translation: Translation) -> str:
    matrix = translation.attention.round(6).tolist() if translation.attention is not None else []
    line = {
        "source": " ".join(tokens),
        "target": translation.text,
        "score": translation.score,
        "matrix": matrix,
    }
    if translation.alternatives:
        every = (translation, *translation.alternatives)
        line["nbest"] = [{"target": each.text, "score": each.score} for each in every]
    return json.dumps(line, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _writer(target: Path | None) -> Iterator[TextIO]:
    if target is None:
        yield sys.stdout
        return
    with explained(f"cannot write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="\n", write_through=True)
        yield text
        text.detach()


@contextlib.contextmanager
def _progress(console: Console | None, source: Path) -> Iterator[Callable[[int], None] | None]:
    if console is None or not console.is_terminal:
        yield None
        return
    with explained(f"cannot read {source}"):
        total = source.stat().st_size
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("translating", total=total)
        yield lambda size: bar.advance(task, size)
