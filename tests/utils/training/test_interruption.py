import contextlib
import os
import signal
import threading

import pytest

from utils.errors import Terminated
from utils.training.interruption import Interruption


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_first_signal_waits_for_the_end_of_the_step(number, error):
    done = []
    with pytest.raises(error), Interruption() as interruption:
        for batch in interruption.steps(["a", "b", "c"]):
            if batch == "b":
                os.kill(os.getpid(), number)
            done.append(batch)
    assert done == ["a", "b"]


def test_second_signal_does_not_wait():
    done = []
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        for batch in interruption.steps(["a", "b"]):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            done.append(batch)
    assert done == []


def test_what_is_undisturbed_is_completed():
    done = []
    with pytest.raises(Terminated), Interruption() as interruption:
        with interruption.undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("saved")
        pytest.fail("went on")
    assert done == ["saved"]


def test_between_steps_a_signal_takes_effect_at_once():
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")


def test_a_swallowed_signal_is_not_forgotten():
    with Interruption() as interruption:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            next(interruption.steps(["a"]))


def test_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_elsewhere_than_in_the_main_thread_nothing_is_installed():
    done = []

    def work():
        with Interruption() as interruption:
            done.extend(interruption.steps(["a", "b"]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["a", "b"]
