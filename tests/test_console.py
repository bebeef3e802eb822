"""Progress and logs on standard error."""

import contextlib
import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from seqwright.console import ConsoleHandler, can_show_bars, log_to, print_line


@contextlib.contextmanager
def fresh_logger() -> Iterator[logging.Logger]:
    """The logger of seqwright as a script finds it that has not set up logging.

    Not a fixture: pytest adds handlers of its own between a test's fixtures and the test.
    """
    ours = logging.getLogger("seqwright")
    level, ours.propagate = ours.level, False
    ours.setLevel(logging.NOTSET)
    yield ours
    ours.propagate = True
    ours.setLevel(level)


def test_the_log_is_printed_while_the_block_runs_and_not_after() -> None:
    console = Console(file=io.StringIO())
    with fresh_logger() as logger:
        with log_to(console):
            logging.getLogger("seqwright.training").info("update %d", 7)
        logging.getLogger("seqwright.training").info("update 8")
        assert (logger.level, logger.handlers) == (logging.NOTSET, [])
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().endswith(" INFO] update 7\n")


def test_no_console_prints_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_logger() as logger, log_to(None):
        logger.info("update 7")
    assert capsys.readouterr() == ("", "")


def test_a_program_that_set_up_logging_keeps_its_own_handlers() -> None:
    console, own = Console(file=io.StringIO()), logging.StreamHandler(io.StringIO())
    with fresh_logger() as logger:
        logger.addHandler(own)
        logger.setLevel(logging.INFO)
        with log_to(console):
            logger.info("update 7")
        logger.removeHandler(own)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
    assert own.stream.getvalue() == "update 7\n"


def test_a_line_is_printed_as_it_is_and_not_wrapped() -> None:
    console = Console(file=io.StringIO(), width=20)
    text = "a :smile: [red]b[/red] /x/%d " + "long " * 20 + "end"
    print_line(console, text)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == text + "\n"


def test_a_handler_edits_lines_before_it_prints_them() -> None:
    console = Console(file=io.StringIO())
    handler = ConsoleHandler(console, lambda text: text.replace("password", "***"))
    handler.handle(logging.LogRecord("any", logging.INFO, "", 0, "the password", None, None))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().endswith("the ***\n")


@pytest.mark.parametrize(("terminal", "expected"), [(True, True), (False, False)])
def test_bars_show_on_terminals_only(terminal: bool, expected: bool) -> None:
    assert can_show_bars(Console(file=io.StringIO(), force_terminal=terminal, force_jupyter=False)) is expected
    assert not can_show_bars(None)


@pytest.mark.parametrize("installed", [True, False])
def test_bars_show_in_jupyter_where_ipywidgets_is_installed(installed: bool, tmp_path: Path) -> None:
    code = f"""
import io, sys
from pathlib import Path
from rich.console import Console
from seqwright.console import can_show_bars
if {installed}:
    Path({str(tmp_path)!r}, "ipywidgets.py").touch()
    sys.path.insert(0, {str(tmp_path)!r})
else:
    sys.modules["ipywidgets"] = None
console = Console(file=io.StringIO(), force_terminal=False, force_jupyter=True)
print(can_show_bars(console))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == f"{installed}\n", result.stderr
