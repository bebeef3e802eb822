"""Translating whole files of any size: in order, written as they are made, and continued after an interruption."""

import contextlib
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, read_json_object, writing
from seqwright.inference.pool import TranslatorPool
from seqwright.inference.sources import Source, read_sources
from seqwright.inference.translator import Translation, Translator
from seqwright.locks import lock_path, locked

_LOGGER = logging.getLogger(__name__)

BATCHES_A_BLOCK = 16
"""Batches read together, sorted by length and written together: what is lost at most if a translator is interrupted."""


def translate_file(
    translator: Translator | TranslatorPool,
    *,
    source: Path | None,
    target: Path | None,
    as_json: bool = False,
    beam_size: int | None = None,
    nbest: int = 1,
    batch_size: int = 64,
    resume: bool = False,
    model: Path | None = None,
    console: Console | None = None,
) -> None:
    """Translate every sequence of `source`, in order.

    Output grows in `<target>.partial`, which takes its name when all is done. What an interruption leaves there,
    `resume` goes on from; `<target>.partial.json` says what it was made with.

    Args:
        translator: the model, or several of it.
        source: text, JSON Lines or RecordIO, as `read_sources` tells them apart; standard input if None.
        target: the file to write; standard output if None.
        as_json: write one JSON object a line, with `source`, `target`, `score`, `matrix` and, for more than one
            translation, `nbest`; else the translations alone, `nbest` lines a sequence, best first.
        beam_size: hypotheses kept, `nbest` at least; the model's own if None.
        nbest: translations a sequence.
        batch_size: sequences searched together.
        resume: go on after the whole lines that an earlier, interrupted run of the same command left.
        model: where `translator` was loaded from, which is not to be written over.
        console: a terminal to show progress on.

    Raises:
        ClientError: a file cannot be read or written, or is damaged; the output is the input or of the model; or
            `resume` cannot tell where to go on, or finds what was made with another model or other options.
    """
    if resume and (source is None or target is None):
        raise ClientError("--resume goes on with an output file: name the input and the output")
    has_line_each = nbest == 1 or as_json
    if resume and not has_line_each:
        raise ClientError("--resume with --nbest needs --format json, which has one line a sequence")
    if source and target:
        for path in (target, *_beside(target)):
            if path.is_file() and source.exists() and path.samefile(source):
                raise ClientError(f"{source} would be written over: name another output than {target}")
    if model and target and target.exists() and any(target.samefile(part) for part in (model, *model.glob("*"))):
        raise ClientError(f"{target} is the model, or a part of it: name another output")
    with contextlib.ExitStack() as stack:
        options = {"format": "json" if as_json else "text", "beam_size": beam_size, "nbest": nbest}
        made_with = {"model": translator.trained.digest(), **options} if target else {}
        may_go_on = source is not None and has_line_each
        out, done = stack.enter_context(_writer(target, resume, may_go_on, made_with))
        advance = stack.enter_context(_progress(console, source))
        every = read_sources(source, translator.source_vocabulary, BATCHES_A_BLOCK * batch_size, advance)
        blocks, ahead = itertools.tee(_after(done, every, source, target))
        found = translator.translate_blocks(
            ([each.ids for each in block] for block in ahead),
            beam_size=beam_size,
            nbest=nbest,
            attention=as_json,
            batch_size=batch_size,
        )
        for block, translations in zip(blocks, found, strict=True):
            for each, translation in zip(block, translations, strict=True):
                out.write(_json_line(each, translation) if as_json else _text_lines(translation, nbest))
            out.flush()


def _after(
    done: int, blocks: Iterable[list[Source]], source: Path | None, target: Path | None
) -> Iterator[list[Source]]:
    """The blocks without the first `done` sources, whose translations are there."""
    for block in blocks:
        yield block[done:]
        done = max(0, done - len(block))
    if done:
        raise ClientError(f"{target}.partial has {done:,} lines more than {source}: it is not of this input")


def _text_lines(translation: Translation, count: int) -> str:
    """So many lines, empty ones where there are fewer translations, for lines to be told apart by their number."""
    found = [each.text for each in (translation, *translation.alternatives)]
    return "".join(f"{text}\n" for text in found + [""] * (count - len(found)))


def _json_line(source: Source, translation: Translation) -> str:
    matrix = translation.rounded_attention().tolist()
    line = {"source": source.text, "target": translation.text, "score": translation.score, "matrix": matrix}
    if translation.alternatives:
        every = (translation, *translation.alternatives)
        line["nbest"] = [{"target": each.text, "score": each.score} for each in every]
    return json.dumps(line, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _writer(
    target: Path | None, resume: bool, may_go_on: bool, made_with: Mapping[str, object]
) -> Iterator[tuple[TextIO, int]]:
    """The stream to write to, and how many lines it has already; says what is left of it when it is interrupted."""
    if target is None:
        if sys.stdout is None:
            raise ClientError("standard output is closed: name a file with --output")
        yield sys.stdout, 0
        return
    if target.exists() and not target.is_file():  # a device or a pipe is written to, not replaced
        if target.is_dir():
            raise ClientError(f"cannot write {target}: it is a folder; name a file")
        if resume:
            raise ClientError(f"--resume goes on with a file, which {target} is not")
        with describe_os_errors(f"cannot write {target}"), target.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream, 0
        return
    partial, about = _beside(target)
    lock = lock_path(target)
    refusal = f"another process is writing {target}: let it end, or name another file"
    with locked(lock, refusal), describe_os_errors(f"cannot write {target}"):
        if resume:
            _require_same(made_with, about, partial)
            done = _keep_whole_lines(partial)
        else:
            partial.unlink(missing_ok=True)
            with writing(about) as stream:
                stream.write(json.dumps(made_with, indent=2).encode())
            done = 0
        try:
            with partial.open("a", encoding="utf-8", newline="\n") as text:
                yield text, done
            partial.replace(target)
        except BaseException:
            if may_go_on and _size(partial):
                _LOGGER.warning("what was translated is in %s: the same command with --resume goes on from it", partial)
            raise
        finally:
            if not _size(partial):
                partial.unlink(missing_ok=True)
                about.unlink(missing_ok=True)


def _beside(target: Path) -> tuple[Path, Path]:
    """Where an output grows, and what says what it is made with."""
    return target.with_name(target.name + ".partial"), target.with_name(target.name + ".partial.json")


def _require_same(made_with: Mapping[str, object], about: Path, partial: Path) -> None:
    """Check that an interrupted output was made with the same; those of earlier versions do not say.

    Raises:
        ClientError: it was not; the message names what differs.
    """
    before = read_json_object(about) if about.exists() else made_with
    different = [name for name in made_with if before.get(name) != made_with[name]]
    if different:
        raise ClientError(
            f"{partial} was begun with another {', '.join(different)}: give the same command as then, or leave "
            "--resume out to start anew"
        )


def _size(path: Path) -> int:
    """Bytes of a file, none where there is no file."""
    return path.stat().st_size if path.exists() else 0


def _keep_whole_lines(partial: Path) -> int:
    """Cut what follows the last line end of an interrupted output; returns how many lines are left."""
    if not partial.exists():
        raise ClientError(f"there is no {partial} to go on from: leave --resume out to start")
    lines = end = 0
    with partial.open("rb+") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                lines, end = lines + 1, end + len(line)
        stream.truncate(end)
    return lines


@contextlib.contextmanager
def _progress(console: Console | None, source: Path | None) -> Iterator[Callable[[int], None] | None]:
    """A function that moves a progress bar by bytes read, where there is a terminal to show one."""
    if console is None or not console.is_terminal or source is None:
        yield None
        return
    with describe_os_errors(f"cannot read {source}"):
        total = source.stat().st_size
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("translating", total=total if source.suffix != ".rec" else None)
        yield lambda size: bar.advance(task, size)
