"""Starting child processes, the only way in which seqwright does so: `ChildProcess`."""

import contextlib
import errno
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Self, TypeVarTuple

from seqwright.errors import AlgorithmError, SeqwrightError
from seqwright.files import describe_os_errors
from seqwright.interrupts import STOP_SIGNALS

if TYPE_CHECKING:  # not every system has fork servers
    from multiprocessing.context import ForkServerContext, SpawnContext

Arguments = TypeVarTuple("Arguments")

logger = logging.getLogger(__name__)

_EXIT_SECONDS = 10.0
"""How long a process may take to end after it has closed its connection."""

_SAFE_PATH = "PYTHONSAFEPATH"


class ChildProcess:
    """A function that runs in a new process, and a connection to it in both directions.

    The function is called as `function(connection, *arguments)`. It may receive and send messages meanwhile; what it
    returns is its last message. Messages are pickled.

    - The child imports neither modules of the current folder nor the program's main module, unless the function or an
      argument is defined in that: a user's script is not run a second time.
    - The signals of `interrupts.STOP_SIGNALS` are blocked in the child: they are for the parent, which ends it.
    - The child ends with the parent, even if the parent is killed.
    - What the function raises is raised by `receive` in the parent: a `SeqwrightError` as it is, anything else is
      logged by the child and becomes an `AlgorithmError`.

    At the end of a `with` block the child is killed if it still runs.

    Args:
        function: a function that can be imported by its name, or a `functools.partial` of one.
        arguments: its arguments after the connection; they are pickled.
        name: the name of the process in messages.
        preload: modules that take long to import. A server process imports them once and forks the children; where a
            system has no fork server, the child imports them itself.

    Attributes:
        name: the name of the process.
        connection: the parent's end, for `multiprocessing.connection.wait` and the like.

    Raises:
        ClientError: the system refuses another process.
    """

    def __init__(
        self,
        function: Callable[[Connection, *Arguments], object],
        *arguments: *Arguments,
        name: str,
        preload: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._joining = threading.Lock()  # of two threads that join a process, one may lose its exit code
        payload = pickle.dumps((function, arguments))
        # A pickle that refers to something in the main module has its name in it.
        main_module = contextlib.nullcontext() if b"__main__" in payload else _main_module_hidden()
        with describe_os_errors(f"cannot start the process {name}"):
            context = _context(preload)
            self.connection, theirs = context.Pipe()
            self._process = context.Process(target=_run, args=(payload, theirs), name=name, daemon=True)
            try:
                with theirs, starting(), main_module:
                    self._process.start()
            except BaseException as error:  # at the end of the block a signal may raise SystemExit
                self.connection.close()
                if self._process.pid is not None:
                    self.kill()
                if isinstance(error, EOFError):
                    raise OSError(errno.EAGAIN, "the server process could not fork") from error
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, message: object) -> None:
        """Send a message to the function.

        Raises:
            SeqwrightError: the process has ended, for the reason that `receive` raises.
        """
        try:
            self.connection.send(message)
        except OSError:
            while True:  # after the messages that are still to be read comes the reason
                self.receive()

    def receive(self) -> Any:  # noqa: ANN401 - whatever the function sends
        """Wait for a message of the function, the last of which is what it returns.

        Raises:
            SeqwrightError: the function raised it.
            AlgorithmError: the function raised another error, or the process was killed.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(message, _Failure):
            raise message.error
        return message

    def kill(self) -> None:
        """End the process at once; another thread that waits in `receive` gets its `AlgorithmError`."""
        self._process.kill()
        self._join()

    def close(self, grace: float = 0.0) -> None:
        """Close the connection, and kill the process if it still runs `grace` seconds later."""
        self.connection.close()
        self._join(grace)
        self.kill()

    def _join(self, seconds: float | None = None) -> None:
        with self._joining:
            self._process.join(seconds)

    def _ended(self) -> AlgorithmError:
        self._join(_EXIT_SECONDS)
        code = self._process.exitcode
        if code is None or code >= 0:
            return AlgorithmError(f"{self.name} ended without a result (exit code {code})")
        reason = ", for want of memory perhaps" if code == -signal.SIGKILL else ""
        return AlgorithmError(f"{self.name} was ended by {signal.Signals(-code).name}{reason}")


def messages(connection: Connection) -> Iterator[Any]:
    """In a child, yield the parent's messages until it closes the connection."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        yield message


def _context(preload: Sequence[str]) -> "ForkServerContext | SpawnContext":
    """How children are started; a fork server runs already."""
    if not preload or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with starting():
        forkserver.ensure_running()
    return context


class _Failure:
    """The message of a function that raised an error."""

    def __init__(self, error: SeqwrightError) -> None:
        self.error = error


def _run(payload: bytes, connection: Connection) -> None:
    """In the child, call the function of a `ChildProcess` and send its result."""
    message: object
    try:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        function, arguments = pickle.loads(payload)  # noqa: S301 - from the parent
        message = function(connection, *arguments)
    except SeqwrightError as error:
        message = _Failure(error)
    except Exception as error:
        logger.exception("%s failed", multiprocessing.current_process().name)
        message = _Failure(AlgorithmError(f"{type(error).__name__}: {error}"))
    with contextlib.suppress(OSError):  # the parent has closed the connection
        connection.send(message)


def _end_with_parent() -> None:
    """Wait for the end of the parent, and end this process then."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this is a child
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals of `interrupts.STOP_SIGNALS` in the block; processes that it starts inherit that.

    A signal between the start of a process and the line that stores it would leave the process running. In this process
    they are handled at the end of the block.
    """
    noted: list[int] = []
    handlers: dict[signal.Signals, Any] = {}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if threading.current_thread() is threading.main_thread():
        # A signal that another thread of this process receives is handled in the main thread all the same.
        handlers = {number: handler for number in STOP_SIGNALS if callable(handler := signal.getsignal(number))}
        for number in handlers:
            signal.signal(number, lambda number, _: noted.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each in noted:
            signal.raise_signal(each)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start `multiprocessing`'s processes in this block.

    Python looks for modules in the current folder first when `multiprocessing` starts it, and would import a user's
    `random.py`: this is switched off. A terminal sends Ctrl-C to every process of a command: the signals of
    `interrupts.STOP_SIGNALS` stay blocked in the new process, and in those that it forks. In this process they are
    handled at the end of the block.
    """
    with _STARTING:
        before = os.environ.get(_SAFE_PATH)
        os.environ[_SAFE_PATH] = "1"
        try:
            resource_tracker.ensure_running()  # starting it unblocks signals, so not in the block below
            with signals_blocked():
                yield
        finally:
            if before is None:
                del os.environ[_SAFE_PATH]
            else:
                os.environ[_SAFE_PATH] = before


_STARTING = threading.Lock()
"""Held while the environment and the main module are changed."""


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep `multiprocessing` from importing the main module in the processes that the block starts.

    It finds that module by these two attributes.
    """
    attributes = vars(sys.modules["__main__"])
    names: tuple[str, ...] = ("__file__", "__spec__")
    found = {name: attributes[name] for name in names if name in attributes}
    attributes.update(dict.fromkeys(found))
    try:
        yield
    finally:
        attributes.update(found)
