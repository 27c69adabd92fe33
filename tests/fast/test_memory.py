# pytest tests/fast/test_memory.py
"""nanos2t/fast/memory.py: only memory that nobody else uses is released."""

import torch

from nanos2t.fast.memory import release_pages


def test_only_memory_of_the_weight_is_released():
    whole = torch.ones(3, 300, 1000)
    release_pages(whole[1])
    assert (whole[0] == 1).all() and (whole[2] == 1).all()

    fused = torch.ones(300, 3000)  # GPT-2 keeps three matrices so, and transposed
    release_pages(fused.T[:1000])
    assert (fused == 1).all()
