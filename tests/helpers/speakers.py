"""Recordings of digits for tests of the recipe, of which each sample tells the speaker."""

import numpy as np


def make_clips(speakers: str) -> dict:
    """Speakers whose every sample is the speaker's number: 1, 2, ..., digit d is 100 + d long."""
    return {
        name: [[np.full(100 + digit, 1.0 + number)] for digit in range(10)]
        for number, name in enumerate(speakers)
    }
