"""The signals that ask a program to end, by itself and in order."""

import signal

# Ctrl-C, `kill`, and a terminal that is closed; Windows has no signal for that.
STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
