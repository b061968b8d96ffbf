import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxcnn.data import DataConfig, load
from jaxcnn.stop import StopFlag, Stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_raised_when_polled(number, code):
    with StopFlag() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(Stopped, match=number.name) as stopped:
            stop.check()
    assert stopped.value.exit_code == code


def test_a_second_interrupt_interrupts_and_a_second_sigterm_does_not():
    with StopFlag() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGTERM


def test_the_handlers_from_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopFlag():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_flag_within_another_starts_with_what_that_one_noted():
    with StopFlag():
        signal.raise_signal(signal.SIGTERM)
        with StopFlag() as inner, pytest.raises(Stopped):
            inner.check()


def test_other_threads_may_use_a_flag_that_is_never_set():
    found = []

    def work():
        with StopFlag() as stop:
            stop.check()
            found.append(stop.signum)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]


def test_reading_examples_polls():
    stop, polled = StopFlag(), []

    def poll():
        polled.append(stop.signum)
        if len(polled) == 300:
            stop.signum = signal.SIGTERM
        stop.check()

    with pytest.raises(Stopped):
        load(DataConfig(source="digits"), poll=poll)
    assert len(polled) == 300


BUSY = """
import hashlib
from jaxcnn.stop import StopFlag, exit_on_second_interrupt
exit_on_second_interrupt("at once")
with StopFlag():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)  # minutes in C, as a compiler would be
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_program_ends_at_the_second_interrupt_even_within_c(first):
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(first)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "at once\n"
