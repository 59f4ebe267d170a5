import threading

import pytest

from llmedge.core.errors import InterruptedByUser
from llmedge.core.interrupts import deferred, deliver, is_pending

STOP = InterruptedByUser("stopped by SIGINT")


def test_an_interrupt_is_raised_at_once():
    with pytest.raises(InterruptedByUser):
        deliver(STOP)
    assert not is_pending()


def test_inside_a_native_call_it_waits_for_the_end():
    steps: list[bool] = []

    def call() -> None:
        with deferred():
            with deferred():
                deliver(STOP)
            steps.append(is_pending())

    with pytest.raises(InterruptedByUser):
        call()
    assert steps == [True]
    assert not is_pending()


def test_it_takes_the_place_of_an_error_that_it_caused():
    def call() -> None:
        with deferred():
            deliver(STOP)
            raise ValueError("the load was stopped")

    with pytest.raises(InterruptedByUser) as caught:
        call()
    assert isinstance(caught.value.__context__, ValueError)


def test_a_native_call_in_another_thread_keeps_nothing_back():
    inside, go_on = threading.Event(), threading.Event()

    def call() -> None:
        with deferred():
            inside.set()
            go_on.wait()

    thread = threading.Thread(target=call)
    thread.start()
    inside.wait()
    with pytest.raises(InterruptedByUser):
        deliver(STOP)
    go_on.set()
    thread.join()
