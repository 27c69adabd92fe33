# Shared by all tests; run them with: pytest
"""Seeds before every test, reasons for what is skipped, one thread a process."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

# Also for the processes that tests start: sums of two threads have other bits.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# In the background of a shell Ctrl-C is ignored, and so it would be by all that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same random state, alone or in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """Return the folder of a tiny model that writes two languages."""
    from helpers.tiny import LANGUAGES, save_tiny

    return save_tiny(tmp_path_factory.mktemp("model"), lang_to_id=LANGUAGES, forced_bos_token_id=4)


def pytest_collection_modifyitems(items):
    """Skip the tests that need what is not here, with the reason."""
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "needs a CUDA device, torch sees none"
    if os.environ.get("NANOS2T_HUB") != "1":
        reasons["hub"] = "downloads official checkpoints; set NANOS2T_HUB=1 to allow it"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
