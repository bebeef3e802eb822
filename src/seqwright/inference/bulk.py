"""Translating whole files of any size: in order, written as they are translated, resumed after an interruption."""

import contextlib
import dataclasses
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress

from seqwright.console import can_show_bars
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, read_json_object, writing
from seqwright.inference.input_report import InputReport
from seqwright.inference.options import SearchOptions
from seqwright.inference.pool import TranslatorPool
from seqwright.inference.sources import Source, read_sources
from seqwright.inference.translator import BATCH_SIZE, BATCHES_PER_BLOCK, Translation, Translator, check_batch_size
from seqwright.locks import lock_path, locked

_LOGGER = logging.getLogger(__name__)


def translate_file(
    translator: Translator | TranslatorPool,
    *,
    source: str | Path | None,
    target: str | Path | None,
    options: SearchOptions | None = None,
    as_json: bool = False,
    batch_size: int = BATCH_SIZE,
    resume: bool = False,
    model: Path | None = None,
    console: Console | None = None,
) -> None:
    """Translate every sequence of `source`, in order.

    Output grows in `<target>.partial`, which is renamed to `target` when all is done. After an interruption `resume`
    goes on from it; `<target>.partial.json` says what it was made with. Sequences that were cut, and unknown tokens if
    they are many, are logged as warnings.

    Args:
        translator: the model, or several processes with it.
        source: text, JSON Lines or RecordIO, as `read_sources` tells them apart; standard input if None or `-`.
        target: the file to write; standard output if None or `-`.
        options: how to search; attention is included with `as_json`.
        as_json: write one JSON object a line, with `source`, `target`, `score`, `matrix` and, for more than one
            translation, `nbest`; else the translations alone, `nbest` lines for each sequence, best first.
        batch_size: sequences searched together.
        resume: go on after the whole lines that an earlier, interrupted run of the same command left.
        model: where `translator` was loaded from; it must not be overwritten.
        console: a terminal to show progress on.

    Raises:
        ClientError: an option is not valid; a file cannot be read or written, or is damaged; the output is the input or
            of the model; or `resume` cannot tell where to go on, or finds an output of another model or other options.
    """
    options = dataclasses.replace(options or SearchOptions(), attention=as_json)
    check_batch_size(batch_size)
    input_path, output_path = _file(source), _file(target)
    one_line_per_source = options.nbest == 1 or as_json
    _check_paths(input_path, output_path, model)
    if resume and (input_path is None or output_path is None):
        raise ClientError("--resume goes on with an output file: name the input and the output")
    if resume and not one_line_per_source:
        raise ClientError("--resume with --nbest needs --format json, which has one line a sequence")
    report = InputReport.of_source(str(input_path or "standard input"), translator.trained.settings)
    with contextlib.ExitStack() as stack:
        made_with: dict[str, object] = {}
        if output_path:
            made_with = {"model": translator.trained.digest(), "format": "json" if as_json else "text"}
            made_with |= {name: value for name, value in dataclasses.asdict(options).items() if name != "attention"}
        can_resume = input_path is not None and one_line_per_source
        out, done = stack.enter_context(_writer(output_path, resume, can_resume, made_with))
        advance = stack.enter_context(_progress(console, input_path))
        every = read_sources(input_path, translator.source_vocabulary, BATCHES_PER_BLOCK * batch_size, advance)
        blocks, ahead = itertools.tee(_after(done, every, input_path, output_path))
        ids = ([each.ids for each in block] for block in ahead)
        for block, translations in zip(blocks, translator.translate_blocks(ids, options, batch_size), strict=True):
            for each, translation in zip(block, translations, strict=True):
                report.add(each.tokens, each.ids)
                out.write(_json_line(each, translation) if as_json else _text_lines(translation, options.nbest))
            out.flush()
    report.warn()


def _file(path: str | Path | None) -> Path | None:
    """A file's path; None, for a standard stream, where there is none or `-`."""
    return None if path is None or str(path) == "-" else Path(path)


def _check_paths(source: Path | None, target: Path | None, model: Path | None) -> None:
    """Check that neither the input nor the model would be overwritten."""
    if source and target:
        for path in (target, *_partial_files(target)):
            if path.is_file() and source.exists() and path.samefile(source):
                raise ClientError(f"{source} would be overwritten: name another output than {target}")
    if model and target and target.exists() and any(target.samefile(part) for part in (model, *model.glob("*"))):
        raise ClientError(f"{target} is the model, or a part of it: name another output")


def _after(
    done: int, blocks: Iterable[list[Source]], source: Path | None, target: Path | None
) -> Iterator[list[Source]]:
    """The blocks without the first `done` sources, which are translated already."""
    for block in blocks:
        yield block[done:]
        done = max(0, done - len(block))
    if done:
        raise ClientError(f"{target}.partial has {done:,} lines more than {source}: it belongs to another input")


def _text_lines(translation: Translation, count: int) -> str:
    """`count` lines, empty ones where there are fewer translations: so line numbers tell which source a line is of."""
    found = [each.text for each in (translation, *translation.alternatives)]
    return "".join(f"{text}\n" for text in found + [""] * (count - len(found)))


def _json_line(source: Source, translation: Translation) -> str:
    matrix = translation.rounded_attention().tolist()
    line = {"source": " ".join(source.tokens), "target": translation.text, "score": translation.score, "matrix": matrix}
    if translation.alternatives:
        every = (translation, *translation.alternatives)
        line["nbest"] = [{"target": each.text, "score": each.score} for each in every]
    return json.dumps(line, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _writer(
    target: Path | None, resume: bool, can_resume: bool, made_with: Mapping[str, object]
) -> Iterator[tuple[TextIO, int]]:
    """The stream to write to, and how many lines it has already.

    Args:
        target: the file; standard output if None.
        resume: whether to keep the lines of an interrupted run.
        can_resume: whether an interrupted run can be resumed, which is then logged.
        made_with: what the output depends on besides the input.
    """
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
    partial, about = _partial_files(target)
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
            if can_resume and _size(partial):
                _LOGGER.warning("what was translated is in %s: the same command with --resume goes on from it", partial)
            raise
        finally:
            if not _size(partial):
                partial.unlink(missing_ok=True)
                about.unlink(missing_ok=True)


def _partial_files(target: Path) -> tuple[Path, Path]:
    """The file in which an output grows, and the file that says what it is made with."""
    return target.with_name(target.name + ".partial"), target.with_name(target.name + ".partial.json")


def _require_same(made_with: Mapping[str, object], about: Path, partial: Path) -> None:
    """Check that an interrupted output was made with the same model and options.

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
    """Bytes of a file; 0 if there is none."""
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
    """A function that advances a progress bar by bytes read, if the console can show one."""
    if source is None or not can_show_bars(console):
        yield None
        return
    with describe_os_errors(f"cannot read {source}"):
        total = source.stat().st_size
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("translating", total=total if source.suffix != ".rec" else None)
        yield lambda size: bar.advance(task, size)
