"""The command line: one file a command, no logic of its own.

Results go to standard output; progress and logs to standard error. Exit status 0 for success, 1 when seqwright is at
fault, 2 when the user can mend it, 128 and the signal's number when a signal ended it: 130 for Ctrl-C.
"""

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated

import typer

import seqwright
from seqwright.cli.console import StandardOutputError, discard_output, say, set_up_logging, set_up_output
from seqwright.cli.demo import demo_command
from seqwright.cli.evaluate import evaluate_command
from seqwright.cli.hyperparameters import hyperparameters_command
from seqwright.cli.import_sockeye import import_sockeye_command
from seqwright.cli.options import add_commands
from seqwright.cli.prepare import prepare_command
from seqwright.cli.sagemaker import sagemaker_app
from seqwright.cli.serve import serve_command
from seqwright.cli.train import train_command
from seqwright.cli.translate import translate_command
from seqwright.errors import AlgorithmError, ClientError, SeqwrightError, client_error_from
from seqwright.interrupts import STOP_SIGNALS, exit_on_signals

INTERRUPTED = [128 + number for number in STOP_SIGNALS]
"""The exit statuses of a command that a signal ended."""

app = typer.Typer(
    name="seqwright",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_commands(
    app,
    {
        "prepare": prepare_command,
        "train": train_command,
        "translate": translate_command,
        "evaluate": evaluate_command,
        "serve": serve_command,
        "import-sockeye": import_sockeye_command,
        "hyperparameters": hyperparameters_command,
        "demo": demo_command,
    },
)
app.add_typer(sagemaker_app, name="sagemaker", short_help=sagemaker_app.info.help)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seqwright {seqwright.__version__}")
        raise typer.Exit


class _State:
    debug = False


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Train sequence-to-sequence models and translate with them."""
    _State.debug = debug
    set_up_logging()


def main() -> None:
    """Run the command line; errors become one message and an exit status."""
    set_up_output()
    try:
        with exit_on_signals(signal.SIGTERM, signal.SIGHUP), _flushed():
            app()
    except BrokenPipeError:  # whatever read the results has seen enough
        discard_output()
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as ended:  # typer makes the one the other, and prints nothing
        code = ended.code if isinstance(ended, SystemExit) else 128 + signal.SIGINT
        if code in INTERRUPTED:
            say("interrupted")
        sys.exit(code)
    except Exception as error:
        if _State.debug:
            say(traceback.format_exc().rstrip())
        if isinstance(error, StandardOutputError):
            discard_output()
        told = _as_seqwright_error(error)
        say(f"{'ClientError' if isinstance(told, ClientError) else 'AlgorithmError'}: {told}")
        if told is not error and isinstance(told, AlgorithmError) and not _State.debug:
            say("This is a fault of seqwright: run again with --debug and report what it prints.")
        sys.exit(told.exit_code)


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Write all of standard output at the end of the block, while an error in doing so can still be reported."""
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def _as_seqwright_error(error: Exception) -> SeqwrightError:
    """What to tell the user of any error: whether it can be mended, and how."""
    if isinstance(error, SeqwrightError):
        return error
    if known := client_error_from(error):
        return known
    from seqwright.devices import is_out_of_memory

    if is_out_of_memory(error):
        return ClientError("there is not enough memory: make the model, the batch size or the beam size smaller")
    return AlgorithmError(f"{type(error).__name__}: {error}")
