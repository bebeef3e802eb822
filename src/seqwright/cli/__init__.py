"""The command line: one file a command, no logic of its own.

Results go to standard output; progress and logs to standard error. Exit status 0 for success, 1 when seqwright is at
fault, 2 when the user can mend it, 128 and the signal's number when a signal ended it: 130 for Ctrl-C.
"""

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated

import typer

import seqwright
from seqwright.cli.console import say, set_up_logging
from seqwright.cli.demo import demo_command
from seqwright.cli.evaluate import evaluate_command
from seqwright.cli.import_sockeye import import_sockeye_command
from seqwright.cli.prepare import prepare_command
from seqwright.cli.sagemaker import sagemaker_app
from seqwright.cli.serve import serve_command
from seqwright.cli.train import train_command
from seqwright.cli.translate import translate_command
from seqwright.errors import ClientError, SeqwrightError
from seqwright.interrupts import STOP_SIGNALS, exit_on_signals

INTERRUPTED = [128 + number for number in STOP_SIGNALS]
"""The exit statuses of a command that a signal ended."""

app = typer.Typer(
    name="seqwright", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.command("prepare")(prepare_command)
app.command("train")(train_command)
app.command("translate")(translate_command)
app.command("evaluate")(evaluate_command)
app.command("serve")(serve_command)
app.command("import-sockeye")(import_sockeye_command)
app.command("demo")(demo_command)
app.add_typer(sagemaker_app, name="sagemaker")


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seqwright {seqwright.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Say the version and end.", callback=_say_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Train sequence-to-sequence models and translate with them."""
    _State.debug = debug
    set_up_logging()


class _State:
    debug = False


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Write all of standard output while it can still be told that it cannot be."""
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def _trace() -> None:
    """Where the error comes from, where that was asked for; without the credentials of its URLs."""
    if _State.debug:
        say(traceback.format_exc().rstrip())


def _discard_output() -> None:
    """What cannot be written is not to be tried again when Python ends."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def main() -> None:
    """Run the command line; errors become one message and an exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # as files of results are, whatever the locale
    try:
        with exit_on_signals(signal.SIGTERM, signal.SIGHUP), _flushed():
            app()
    except SeqwrightError as error:
        _trace()
        say(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as ended:  # typer makes the one the other, and says nothing
        code = ended.code if isinstance(ended, SystemExit) else 128 + signal.SIGINT
        if code in INTERRUPTED:
            say("interrupted")
        sys.exit(code)
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)
    except Exception as error:
        _trace()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _discard_output()
            say("ClientError: cannot write standard output: no space left on device")
            sys.exit(ClientError.exit_code)
        from seqwright.devices import is_out_of_memory

        if is_out_of_memory(error):
            say("ClientError: there is not enough memory: make the model, the batch size or the beam size smaller")
            sys.exit(ClientError.exit_code)
        say(f"AlgorithmError: {type(error).__name__}: {error}")
        if not _State.debug:
            say("This is a fault of seqwright: run again with --debug and report what it prints.")
        sys.exit(1)
