# pytest tests/training/test_stop_signals.py
"""Which signals stop a program; tests/cli/test_main.py and test_resuming.py send them."""

import signal

from nanos2t.training.stop_signals import STOP_SIGNALS


def test_the_signals_that_stop_a_program():
    names = {"SIGINT", "SIGTERM", "SIGHUP"} & set(dir(signal))  # Windows lacks the last
    assert {number.name for number in STOP_SIGNALS} == names
