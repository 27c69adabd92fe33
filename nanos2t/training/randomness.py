"""Where training takes its random numbers from.

Every random number follows from `config.seed` and the number of an epoch, a batch or a step, and
from nothing else: not from the process that draws it, nor from what was drawn before. So a run that
is killed and resumed makes the same batches, and ends in the same bits, as one that was never
stopped; and two processes draw for their batches what one process would have drawn.

Nothing else in training/ seeds a generator, except start.py for the first weights.
"""

import numpy as np
import torch


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """Return the generator for the order of an epoch's clips."""
    return np.random.default_rng((seed, epoch))


def augmentation_generator(seed: int, batch_number: int) -> np.random.Generator:
    """Return the generator for changes of a batch's waveforms."""
    return np.random.default_rng((seed, batch_number, 1))


def seed_batch(seed: int, batch_number: int) -> np.random.Generator:
    """Seed torch for the dropouts of a batch, and return the generator for its masked frames."""
    rng = np.random.default_rng((seed, batch_number, 2))
    torch.manual_seed(int(rng.integers(2**63)))
    return rng


def seed_step(seed: int, step: int) -> None:
    """Seed torch for a step, for losses that are not computed batch by batch."""
    torch.manual_seed(seed * 1_000_003 + step)
