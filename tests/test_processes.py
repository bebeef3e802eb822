"""Child processes: what they import, how they end, and what reaches the parent."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path

import pytest

from seqwright.errors import AlgorithmError, ClientError
from seqwright.interrupts import STOP_SIGNALS
from seqwright.processes import ChildProcess, messages

PRELOADS: list[list[str]] = [[], ["seqwright.processes"]]
"""A child with a new interpreter, and one that a server forks."""

both_ways = pytest.mark.parametrize("preload", PRELOADS, ids=["spawned", "forked"])


def add(connection: Connection, *numbers: int) -> int:
    return sum(numbers)


def double(connection: Connection) -> str:
    for number in messages(connection):
        connection.send(2 * number)
    return "closed"


def complain(connection: Connection) -> None:
    raise ClientError("the file is damaged")


def fail(connection: Connection) -> None:
    raise ZeroDivisionError("division by zero")


def die(connection: Connection, number: int) -> None:
    os.kill(os.getpid(), number)


def leave(connection: Connection) -> None:
    os._exit(7)


def sleep(connection: Connection) -> None:
    connection.send(os.getpid())
    time.sleep(600)


def blocked_signals(connection: Connection) -> set[int]:
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@both_ways
def test_what_the_function_returns_is_received(preload: list[str]) -> None:
    with ChildProcess(add, 1, 2, 3, name="adder", preload=preload) as child:
        assert child.receive() == 6


@both_ways
def test_messages_go_both_ways_until_the_connection_is_closed(preload: list[str]) -> None:
    with ChildProcess(double, name="doubler", preload=preload) as child:
        for number in (3, 10**100):
            child.send(number)
            assert wait([child.connection], 60)
            assert child.receive() == 2 * number
    assert not multiprocessing.active_children()


def test_a_function_whose_connection_is_closed_may_end_by_itself(tmp_path: Path) -> None:
    child = ChildProcess(note_the_end, tmp_path / "ended", name="noter")
    child.close(grace=60)
    assert (tmp_path / "ended").exists()


def note_the_end(connection: Connection, path: Path) -> None:
    for _ in messages(connection):
        pass
    path.touch()


@both_ways
def test_an_error_of_the_user_reaches_the_parent_as_it_is(preload: list[str]) -> None:
    with (
        ChildProcess(complain, name="reader", preload=preload) as child,
        pytest.raises(ClientError, match=r"^the file is damaged$"),
    ):
        child.receive()


@both_ways
def test_any_other_error_is_logged_and_becomes_ours(preload: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with (
        ChildProcess(fail, name="divider", preload=preload) as child,
        pytest.raises(AlgorithmError, match=r"^ZeroDivisionError: division by zero$"),
    ):
        child.receive()
    if not preload:  # a server writes to what standard error was when it started
        assert "in fail" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (functools.partial(die, number=signal.SIGKILL), "x was ended by SIGKILL, for want of memory perhaps"),
        (functools.partial(die, number=signal.SIGABRT), "x was ended by SIGABRT"),
        (leave, r"x ended without a result \(exit code 7\)"),
    ],
)
@both_ways
def test_a_child_that_is_ended_is_named(function: Callable[..., None], message: str, preload: list[str]) -> None:
    with ChildProcess(function, name="x", preload=preload) as child:
        with pytest.raises(AlgorithmError, match=f"^{message}$"):
            child.receive()
        with pytest.raises(AlgorithmError, match=f"^{message}$"):
            child.send("more")


def test_sending_to_a_function_that_has_failed_raises_its_error() -> None:
    with ChildProcess(complain, name="reader") as child:
        assert wait([child.connection], 60)
        time.sleep(0.5)  # until the process has ended
        with pytest.raises(ClientError, match=r"^the file is damaged$"):
            child.send("more")


@pytest.mark.parametrize("threads", [0, 1])
def test_a_signal_while_a_child_starts_leaves_no_process(threads: int, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        f"""
        import multiprocessing, os, signal, sys, threading
        from seqwright.interrupts import exit_on_signals
        from seqwright.processes import ChildProcess

        def terminate(event, arguments):
            if event == "open" and isinstance(arguments[0], int):  # the pipe to the process that was started
                os.kill(os.getpid(), signal.SIGTERM)

        for _ in range({threads}):  # one that may receive the signal in place of the main thread
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        sys.addaudithook(terminate)
        try:
            with exit_on_signals(signal.SIGTERM):
                ChildProcess(repr, name="child")
        except SystemExit as error:
            print(error.code, multiprocessing.active_children())
        """,
    )
    result = run(path)
    assert result.stdout == "143 []\n", result.stderr


def test_a_child_that_is_killed_wakes_the_thread_that_waits_for_it() -> None:
    errors: list[str] = []

    def receive() -> None:
        try:
            child.receive()
        except AlgorithmError as error:
            errors.append(str(error))

    with ChildProcess(sleep, name="sleeper") as child:
        child.receive()
        waiting = threading.Thread(target=receive)
        waiting.start()
        child.kill()
        waiting.join(60)
    assert errors == ["sleeper was ended by SIGKILL, for want of memory perhaps"]


@both_ways
def test_signals_are_left_to_the_parent(preload: list[str]) -> None:
    with ChildProcess(blocked_signals, name="child", preload=preload) as child:
        assert set(STOP_SIGNALS) <= child.receive()
    assert not set(STOP_SIGNALS) & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    return path


def run(path: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, path], cwd=path.parent, capture_output=True, text=True, timeout=120, check=False
    )


PARENT = """
    import time
    from tests.test_processes import sleep
    from seqwright.processes import ChildProcess

    child = ChildProcess(sleep, name="sleeper", preload={preload})
    print(child.receive(), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes under /proc")
@both_ways
def test_a_child_ends_with_a_parent_that_is_killed(preload: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(script(tmp_path, PARENT.format(preload=preload)))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    until = time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(pid)


@both_ways
def test_a_script_is_not_run_again_in_its_children(preload: list[str], tmp_path: Path) -> None:
    path = script(
        tmp_path,
        f"""
        from seqwright.processes import ChildProcess

        print("the script runs", flush=True)
        with ChildProcess(repr, name="child", preload={preload}) as child:
            print("Connection" in child.receive())
        print(__file__.endswith("script.py"), __spec__)
        """,
    )
    result = run(path)
    assert (result.stdout, result.returncode) == ("the script runs\nTrue\nTrue None\n", 0), result.stderr


def test_a_function_of_the_main_module_is_found_in_the_child(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        from seqwright.processes import ChildProcess

        def answer(connection):
            return 42

        if __name__ == "__main__":
            with ChildProcess(answer, name="child") as child:
                print(child.receive())
        """,
    )
    result = run(path)
    assert (result.stdout, result.returncode) == ("42\n", 0), result.stderr


def test_a_refused_process_is_a_users_mistake(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import os, resource
        from seqwright.errors import ClientError
        from seqwright.processes import ChildProcess

        resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
        try:
            ChildProcess(print, name="child")
        except ClientError as error:
            print(error)
        """,
    )
    result = run(path)
    assert result.stdout == "cannot start the process child: too many open files\n", result.stderr
