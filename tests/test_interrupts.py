"""Requests to stop by signals, and waiting that they end."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from seqwright.errors import ClientError
from seqwright.interrupts import (
    STOP_SIGNALS,
    StopRequested,
    exit_on_signals,
    exit_on_sigterm,
    in_background,
    stop_on_signals,
    wait_unless_stopped,
)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Each test leaves the handlers of signals as they were."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # where Python handles it


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_is_a_request_to_stop(number: signal.Signals) -> None:
    with stop_on_signals(*STOP_SIGNALS) as stop_requested:
        assert not stop_requested()
        send(number)
        assert stop_requested()


def test_a_second_signal_has_its_former_effect() -> None:
    with stop_on_signals(*STOP_SIGNALS) as stop_requested:
        send(signal.SIGINT)
        assert stop_requested()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(*STOP_SIGNALS) as stop_requested:
            send(signal.SIGHUP)
            assert not stop_requested()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_exits_with_the_status_of_shells(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as ended, exit_on_signals(*STOP_SIGNALS):
        send(number)
    assert ended.value.code == 128 + number


def test_sigterm_exits_with_status_0_even_after_it_was_swallowed() -> None:
    with exit_on_sigterm() as end_if_received:
        end_if_received()
        with pytest.raises(SystemExit):
            send(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            end_if_received()
    assert ended.value.code == 0


def test_results_and_errors_are_waited_for() -> None:
    assert wait_unless_stopped(lambda: 5, lambda: False, grace=0) == 5
    assert wait_unless_stopped(lambda: 5, lambda: True, grace=60) == 5
    with pytest.raises(ZeroDivisionError):
        wait_unless_stopped(lambda: 1 // 0, lambda: False, grace=0)


def test_waiting_ends_after_a_request_to_stop() -> None:
    released = threading.Event()
    with pytest.raises(StopRequested):
        wait_unless_stopped(released.wait, lambda: True, grace=0.2)
    released.set()


def test_a_refused_thread_is_a_users_mistake() -> None:
    before = threading.stack_size(1 << 46)  # more than any system gives
    try:
        with pytest.raises(ClientError, match="the system refuses another thread: raise the limit"):
            in_background(lambda: 5)
    finally:
        threading.stack_size(before)
